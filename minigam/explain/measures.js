"use strict";
// What can stand under the words, and the parts that all of the page is made of.

const $ = (id) => document.getElementById(id);

// The text is not trusted: it enters the page as text nodes only, never as HTML.
function make(tag, { cls = "", text = "", style = {}, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  for (const [name, value] of Object.entries(style)) node.style.setProperty(`--${name}`, value);
  node.append(...(text === "" ? [] : [text]), ...children);
  return node;
}

const visible = { " ": "\u2423", "\n": "\u21b5", "\t": "\u21e5" };
const shown = (word) => word.replace(/[ \n\t]/g, (space) => visible[space]) || "\u2205";
const quoted = (word) => `\u201c${shown(word)}\u201d`;
const gate = (x) => x.toFixed(2).replace(/^0/, "");
const nats = (x) =>
  x
    .toFixed(2)
    .replace(/^-(0\.00)$/, "$1")
    .replace("-", "\u2212");
const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;
const level = (share) => `${Math.round(100 * Math.min(1, Math.max(0, share)))}%`;
function percent(p) {
  if (p > 0 && p < 0.001) return "<\u00a00.1\u00a0%";
  return `${(100 * p).toFixed(p > 0 && p < 0.0995 ? 1 : 0)}\u00a0%`;
}

const spec = data.model,
  { reach } = spec,
  opponent = data.rival;
let reading = readingOf(data.text.ids, data.text.after, data.text.first_sampled);
const first = reading.views[0][0]; // which parts the mixer has is the same everywhere
const has = { gates: first.local !== null, slots: first.slots !== null, sources: first.sources !== null };
const view = (t) => reading.views[t][layer];
const following = (t) => reading.tokens[t + 1] || reading.afterToken;

// ---------------------------------------------------------------------------- surprise

// What a word cost above its floor; its whole cost where the floor is unknown.
const excess = (token, cost) => cost - (token.floor ?? 0);
function signed(token, cost) {
  const value = excess(token, cost);
  if (token.floor === null) return nats(value);
  return Math.abs(value) < 0.005 ? "\u00b10" : `${value > 0 ? "+" : ""}${nats(value)}`;
}
// The models and what a word cost each, [name, cost, colour].
function priced(token) {
  const ours = [spec.label, token.cost, "cost"];
  return token.rival === null ? [ours] : [ours, [opponent.label, token.rival, "rival"]];
}
function surprise(token) {
  if (token.cost === null) return "first token";
  const above = (cost) =>
    token.floor === null ? "" : ` (floor ${nats(token.floor)}, difference ${signed(token, cost)})`;
  return priced(token)
    .map(([who, cost]) => `${who} ${nats(cost)} nats${above(cost)}`)
    .join("; ");
}

// ---------------------------------------------------------------------------- measures

const shade = (text, share, hue) => ({ text, style: { level: level(share), hue: `var(--${hue})` } });
const track = ([mean, low, high], hue) => ({
  hue: `var(--${hue})`,
  mean: level(mean),
  low: level(low),
  high: level(high),
});
const [LOW, HIGH] = data.limits.spread;

// What `say` returns of the largest source of token t, or `none` if all are too small to be listed.
function source(t, say, none) {
  const [most] = view(t).sources;
  return most ? say(reading.tokens[most[0]].text, most[1], back(t, most[0])) : none;
}
const back = (t, j) => (j === t ? "this token" : `${count(t - j, "token", "tokens")} back`);

// Each measure has a name, the chips under token t, their meaning in words for a screen reader, and a legend.
const MEASURES = {
  recall: {
    name: "Recall",
    there: has.sources,
    chips: (t) => [
      source(
        t,
        (word, share) => shade(`${shown(word)} ${percent(share)}`, share, "source"),
        shade("\u2013", 0, "source"),
      ),
    ],
    describe: (t) =>
      "recall most from " +
      source(t, (word, share) => `${quoted(word)}, ${percent(share)}`, "the learned slots"),
    scale: () =>
      `Layer ${layer + 1}: the token that most of the recall comes from, and its share. A full shade is 100 %.`,
  },
  gates: {
    name: "Gates",
    there: has.gates,
    chips: (t) =>
      ["local", "global"].map((name) => ({
        text: gate(view(t)[name][0]),
        cls: " track",
        style: track(view(t)[name], name),
      })),
    describe: (t) => `local gate ${gate(view(t).local[0])}, global gate ${gate(view(t).global[0])}`,
    scale: () =>
      `Layer ${layer + 1}: the gates' means over ${spec.channels} channels, local (left, orange) and global (right, blue). ` +
      "The line below each runs from 0 (closed) to 1 (open): the band holds the channels " +
      `from the ${LOW}th to the ${HIGH}th percentile, the mark is the mean.`,
  },
  slots: {
    name: "Strongest slot",
    there: has.slots,
    chips: (t) =>
      view(t)
        .slots.slice(0, 1)
        .map(([slot, share]) => shade(`${slot}: ${percent(share)}`, share, "slot")),
    describe: (t) => `slot ${view(t).slots[0][0]} with a share of ${percent(view(t).slots[0][1])}`,
    scale: () =>
      `Layer ${layer + 1}: the slot with the largest share, and that share. A full shade is 100 %.`,
  },
  cost: {
    name: "Surprise",
    there: true,
    chips: (t) =>
      t
        ? priced(reading.tokens[t]).map(([, cost, hue]) =>
            shade(signed(reading.tokens[t], cost), excess(reading.tokens[t], cost) / 3, hue),
          )
        : [shade("\u2013", 0, "cost")],
    describe: (t) => surprise(reading.tokens[t]),
    scale: () =>
      [
        generator &&
          "With a sign: how many nats the word cost the model above the entropy floor, which is minus the logarithm of the generator's own probability.",
        generator &&
          "Below zero: the model gave this word more than the generator does; on average over texts that is impossible.",
        "Without a sign: the cost itself, minus the natural logarithm of the model's probability.",
        generator && "It stands where the floor is unknown.",
        opponent && `Left: ${spec.label}; right: ${opponent.label}.`,
        "A full shade is 3 nats.",
      ]
        .filter(Boolean)
        .join(" "),
  },
};

// The last layer; of a written memory the one whose recall comes most from single tokens.
const sharpness = (n) => reading.views.reduce((sum, layers) => sum + (layers[n].sources?.[0]?.[1] || 0), 0);
let layer = reading.views[0].reduce((best, _, n) => (sharpness(n) >= sharpness(best) ? n : best), 0);
let measure = Object.keys(MEASURES).find((name) => MEASURES[name].there);
let temperature = 1;
