"use strict";
// What the page shows of a reading, and its controls.

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
const shown = (word) => word.replace(/ /g, "\u2423").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5") || "\u2205";
const quoted = (word) => `\u201c${shown(word)}\u201d`;
const gate = (x) => x.toFixed(2).replace(/^0/, "");
const percent = (p) => p === 0 ? "0\u00a0%" : p < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)}\u00a0%`;
const nats = (x) => x.toFixed(2).replace(/^-(0\.00)$/, "$1").replace("-", "\u2212");
const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;
const level = (share) => `${Math.round(100 * Math.min(1, Math.max(0, share)))}%`;
const narrow = matchMedia("(max-width: 51.99rem)");

const spec = data.model, { reach } = spec, words = data.words;
let reading = readingOf(data.text.ids, data.text.after, data.text.first_sampled);
let title = data.text.title;
const first = reading.views[0][0];  // which parts the mixer has is the same everywhere
const has = { gates: first.local !== null, slots: first.slots !== null, sources: first.sources !== null };
const following = (t) => reading.tokens[t + 1] || reading.afterToken;
const view = (t) => reading.views[t][layer];

// -------------------------------------------------------- what can stand under the words

// How much a word cost above its floor, or what it cost where the floor is unknown.
const excess = (token, cost) => token.floor === null ? cost : cost - token.floor;
const signed = (token, cost) => {
  const value = excess(token, cost), known = token.floor !== null;
  return known && Math.abs(value) < 0.005 ? "\u00b10" : `${known && value > 0 ? "+" : ""}${nats(value)}`;
};
const surprise = (token, who, cost) => `${who} ${nats(cost)} nats` + (token.floor === null ? "" : ` (floor ${nats(token.floor)}, difference ${signed(token, cost)})`);
const priced = (token) => [[spec.label, token.cost, "cost"], ...(token.rival === null ? [] : [[data.rival.label, token.rival, "rival"]])];

// Each measure has a name, the chips for token t, and a description in words.
const track = ([mean, low, high], hue) => ({ hue: `var(--${hue})`, mean: level(mean), low: level(low), high: level(high) });
const shade = (text, share, hue) => ({ text, style: { level: level(share), hue: `var(--${hue})` } });
const MEASURES = {
  recall: {
    name: "Recall", there: has.sources,
    chips: (t) => [source(t, (word, share) => shade(`${shown(word)} ${percent(share)}`, share, "source"), shade("\u2013", 0, "source"))],
    describe: (t) => `recall most from ${source(t, (word, share) => `${quoted(word)}, ${percent(share)}`, "the learned slots")}`,
    scale: () => `Layer ${layer + 1}: the token that most of the recall comes from, and its share. A full shade is 100 %.`,
  },
  gates: {
    name: "Gates", there: has.gates,
    chips: (t) => ["local", "global"].map((name) => ({ text: gate(view(t)[name][0]), cls: " track", style: track(view(t)[name], name) })),
    describe: (t) => `local gate ${gate(view(t).local[0])}, global gate ${gate(view(t).global[0])}`,
    scale: () => `Layer ${layer + 1}: the gates' means over ${spec.channels} channels, local (left, orange) and global (right, blue). ` +
      `The line below each runs from 0 (closed) to 1 (open): the band holds the channels from the ${data.limits.spread[0]}th to the ${data.limits.spread[1]}th percentile, the mark is the mean.`,
  },
  slots: {
    name: "Strongest slot", there: has.slots,
    chips: (t) => { const [slot, share] = view(t).slots[0]; return [shade(`${slot}: ${percent(share)}`, share, "slot")]; },
    describe: (t) => `slot ${view(t).slots[0][0]} with a share of ${percent(view(t).slots[0][1])}`,
    scale: () => `Layer ${layer + 1}: the slot with the largest share, and that share. A full shade is 100 %.`,
  },
  cost: {
    name: "Surprise", there: true,
    chips: (t) => { const token = reading.tokens[t]; return token.cost === null ? [shade("\u2013", 0, "cost")]
      : priced(token).map(([, cost, hue]) => shade(signed(token, cost), excess(token, cost) / 3, hue)); },
    describe: (t) => reading.tokens[t].cost === null ? "first token" : priced(reading.tokens[t]).map(([who, cost]) => surprise(reading.tokens[t], who, cost)).join("; "),
    scale: () => (generator ? "With a sign: how many nats the word cost the model above the entropy floor, which is minus the logarithm of the generator's own probability. " +
      "Below zero: the model gave this word more than the generator does; on average over texts that is impossible. " : "") +
      "Without a sign: the cost itself, minus the natural logarithm of the model's probability." + (generator ? " It stands where the floor is unknown." : "") +
      (data.rival ? ` Left: ${spec.label}; right: ${data.rival.label}.` : "") + " A full shade is 3 nats.",
  },
};
// What `say` returns of the largest source of token t, or `none` if all are too small to be listed.
function source(t, say, none) {
  const [most] = view(t).sources;
  return most ? say(reading.tokens[most[0]].text, most[1], back(t, most[0])) : none;
}
const back = (t, j) => j === t ? "this token" : `${count(t - j, "token", "tokens")} back`;

// The last layer; of a written memory the one whose recall comes most from single tokens.
const sharpness = (n) => reading.views.reduce((sum, layers) => sum + (layers[n].sources?.[0]?.[1] || 0), 0);
let layer = reading.views[0].reduce((best, _, n) => sharpness(n) >= sharpness(best) ? n : best, 0);
let measure = Object.keys(MEASURES).find((name) => MEASURES[name].there);
let at = 0, held = -1, temperature = 1, buttons = [];

// ------------------------------------------------- the texts that depend on the model

function introduce() {
  $("label").textContent = spec.label;
  const size = `${count(spec.layers, "layer", "layers")}, ${spec.channels} channels` + (has.slots ? `, ${spec.slots} slots per layer` : "");
  $("about").textContent = `Run ${data.run} on ${data.corpus}: ${size}, mixer ${spec.mixer}, ${spec.parameters.toLocaleString("en")} parameters.` +
    (data.rival ? ` Next to it: a ${data.rival.label} with ${data.rival.parameters.toLocaleString("en")} parameters, trained on the same text.` : "");
  $("live").textContent = live ? "" : `The model is not in this page, which shows one text only: ${data.reason}. \u201cminigam explain --prompt\u201d makes the page of another text.`;
  const span = reach === null ? "all tokens up to it" : spec.mixer === "global" ? "1 token (only a convolution reads other tokens, and this model has none)"
    : `1 + L (K \u2212 1) = 1 + ${spec.layers} (${spec.kernel} \u2212 1) = ${count(reach, "token", "tokens")}`.replace(/ (?!=)/g, "\u00a0");
  $("legend").append(make("p", { text: "Each box is a token that the model has read. " +
    "Point at a token, tap it, or move to it with the arrow keys. A bar above marks its receptive field, the tokens that the model's output there depends on: " +
    `${span}. Paler tokens cannot change anything that is shown for it. The panel lists the words the model expects next` +
    (live ? ", the tokens that mattered for that" : "") + (has.slots ? ", and the memory slots that respond, with the words of the validation text that excite each most." : ".") }));
  const lacks = { sum: "This model's mixer, sum, adds the local and the global context without a gate (no E6, and no sigmoid in E7). There are no gates to show.",
    local: "This model's mixer, local, is the convolution alone, without memory (E3 to E5) or gate (E6, E7). There are no slots and no gates to show.",
    global: "This model's mixer, global, is the memory alone, without convolution (E2) or gate (E6, E7). There are no gates to show.",
    written: "This model is minigam's extension of GAM, not in the paper: every token is written into the memory (X1 to X5), and later tokens recall it. " +
      "The words that the recall of the chosen token comes from are shaded yellow; the largest share has the full shade. " +
      "A layer recalls vectors: in the first layer a vector is a word and its position, in later ones it can also hold what came before." }[spec.mixer];
  if (lacks) $("legend").append(make("p", { text: lacks }));
  $("legend").open = !narrow.matches && !live;
  for (const node of document.querySelectorAll("[data-mixers]")) node.hidden = !node.dataset.mixers.split(" ").includes(spec.mixer);
}

// What the generator knows of this text, and the marks that occur in it.
function describe() {
  const all = reading.tokens, unknown = all.findIndex((token, t) => t && token.floor === null), kinds = new Set(all.map((token) => token.kind));
  const sampled = all.filter((token) => token.sampled).length;
  $("known").textContent = !generator ? `The generator of ${data.corpus} is unknown, and so is the entropy floor of this text. ` +
    "The page shows what the model expects, but not what the best possible model would."
    : unknown > 0 ? `The generator of PocketStories never writes ${quoted(all[unknown].text)} here (token ${unknown + 1}). From there on, the exact probabilities and the floor are unknown and not shown.`
    : "The generator of PocketStories can write this text, so the exact probability of every next word is known. It gives the entropy floor, which no model can beat on average.";
  $("marks").textContent = [
    `Text: ${title}${sampled ? `, followed by ${count(sampled, "token", "tokens")} that the model sampled` : ""}.`,
    kinds.has("choice") && "\u25c7 choice: the generator chose this word at random.",
    kinds.has("recall") && `\u21a9 recall: determined by a word more than ${data.recall_beyond} tokens back.`,
    sampled && "Italic, dotted underline: sampled by the model.",
    live && measure !== "recall" && "Yellow: the words that mattered for what comes next; a full shade is a change of 0.5 or more.",
    "Click or tap a token to hold it; click again or press Esc to release it.",
  ].filter(Boolean).join(" ");
  document.title = `Inside a ${spec.label}: ${data.run}, ${title}`;
}

function radios(fieldset, name, choices, chosen, choose) {
  for (const [value, label] of choices) {
    const input = make("input", { type: "radio", name, value });
    input.checked = value === String(chosen);
    input.addEventListener("change", () => choose(value));
    fieldset.append(make("label", { text: label }, input));
  }
}

// -------------------------------------------------------------------------------- the text

// One button per token. Only the current one has tabindex 0: arrow keys move in the text, Tab leaves it.
function lay() {
  buttons = reading.tokens.map((token, t) => {
    const word = make("span", { cls: "word", text: shown(token.text) });
    const kind = { choice: "\u25c7", recall: "\u21a9" }[token.kind];
    if (kind) word.append(make("span", { cls: "kind", text: kind, "aria-hidden": "true" }));
    const button = make("button", { type: "button", tabindex: "-1" }, word, make("span", { cls: "chips" }));
    button.classList.toggle("sampled", token.sampled);
    button.addEventListener("mouseenter", () => { if (held < 0) show(t); });
    button.addEventListener("focus", () => show(t));
    button.addEventListener("click", () => hold(held === t ? -1 : t));
    return button;
  });
  $("text").replaceChildren(...buttons.map((button) => make("li", {}, button)));
  label();
  describe();
}
function hold(t) { held = t; show(t < 0 ? at : t); if (narrow.matches) buttons[at].scrollIntoView({ block: "nearest" }); }

function label() {
  const { chips, describe: say, scale } = MEASURES[measure];
  $("scale").textContent = scale();
  buttons.forEach((button, t) => {
    const { text, kind, sampled } = reading.tokens[t];
    button.lastChild.replaceChildren(...chips(t).map(({ cls = "", ...chip }) => make("span", { ...chip, cls: `chip${cls}` })));
    button.setAttribute("aria-label", `${shown(text)}${kind && kind !== "syntax" ? `, ${kind}` : ""}${sampled ? ", sampled" : ""}, ${say(t)}`);
  });
}

function show(t) {
  at = t;
  const from = reach === null ? 0 : Math.max(0, t - reach + 1), next = following(t);
  const decided = next || reading.only[t];  // the word that the text continues with, or the only one that it can
  const settles = decided && decided.back > 1 ? t + 1 - decided.back : -1;
  buttons.forEach((button, i) => {
    const inside = from <= i && i <= t;
    button.classList.toggle("seen", inside);
    button.classList.toggle("unseen", !inside);
    button.classList.toggle("now", i === t);
    button.classList.toggle("settles", i === settles);
    button.tabIndex = i === t ? 0 : -1;
    button.toggleAttribute("aria-current", false);
    if (i === t) button.setAttribute("aria-current", "true");
    button.setAttribute("aria-pressed", String(held === i));
  });
  const token = reading.tokens[t], expectedNext = reading.next(t, temperature);
  $("token").textContent = shown(token.text);
  $("said").textContent = [
    `Token ${t + 1} of ${reading.tokens.length}${token.kind ? `, ${token.kind}` : ""}${token.sampled ? ", sampled" : ""}${held >= 0 ? ", held" : ""}.`,
    from === t ? "Receptive field: this token alone." : reach === null ? `Receptive field: all ${t + 1} tokens so far.` : `Receptive field: ${t - from + 1} tokens, from ${quoted(reading.tokens[from].text)} on.`,
    has.sources && `Its recall comes most from ${source(t, (word, share, where) => `${quoted(word)}, ${where} (${percent(share)})`, "the learned slots")}.`,
    `Most likely next: ${likeliest(expectedNext)}.`,
  ].filter(Boolean).join(" ");
  showNext(t, expectedNext, settles, from);
  showInfluence(t);
  showGates(t); showSources(t); showMemory(t);
  colour(t);
}
function likeliest(expectedNext) {
  const best = (who) => expectedNext.reduce((a, b) => b[who] > a[who] ? b : a), [ours, theirs] = [best("p"), best("rival")];
  const say = ({ id }, p) => `${quoted(names[id])} (${percent(p)})`;
  return data.rival && theirs.rival !== null ? `${spec.label} ${say(ours, ours.p)}, ${data.rival.label} ${say(theirs, theirs.rival)}` : say(ours, ours.p);
}

// Shade the words that the recall comes from, or those that mattered for what comes next.
function colour(t) {
  const shares = new Map(measure === "recall" ? view(t).sources : influence(t).found), full = measure === "recall" ? Math.max(...shares.values()) : 0.5;
  buttons.forEach((button, i) => {
    button.classList.toggle("source", shares.has(i));
    button.firstChild.style.setProperty("--level", level((shares.get(i) || 0) / full));
  });
}

// ------------------------------------------------------------------------------- the panel

const row = (...cells) => make("tr", {}, ...cells);
const cell = (text, cls = "") => make("td", { text, cls });
const head = (...titles) => make("thead", {}, row(...titles.map(([text, cls = ""]) => make("th", { text, cls, scope: "col" }))));
const bar = (text, share, hue) => make("td", { cls: "number", text, style: { share, hue: `var(--${hue})` } });
function section(id, heading, ...nodes) { $(id).replaceChildren(make("h3", { text: heading }), ...nodes); }

function showNext(t, expectedNext, settles, from) {
  const next = following(t), only = reading.only[t], follows = reading.follows[t], exact = follows.size > 0, notes = [];
  const besides = data.rival && t < reading.rivalRecords.length;
  const rows = expectedNext.map(({ id, p, rival: q }) => {
    const word = names[id], is = next && word === next.text;
    const name = live ? make("button", { type: "button", cls: "take", text: shown(word), title: `Let the text continue with ${quoted(word)} here` }) : shown(word);
    if (live) name.addEventListener("click", () => take(t, id));
    const line = row(make("td", { text: is ? "\u25b8 " : "" }, name), bar(percent(p), p, "cost"),
      ...(besides ? [bar(percent(q), q, "rival")] : []), ...(exact ? [bar(percent(follows.get(word) || 0), follows.get(word) || 0, "exact")] : []));
    if (is) line.className = "next";
    return line;
  });
  if (temperature !== 1) notes.push(`At temperature ${temperature.toFixed(1)}: the shares that a word is drawn by. Surprise is always measured at 1.`);
  if (exact) notes.push(only ? `The generator can write one word here${next ? "" : `, ${quoted(only.word)}`}.` : `The generator can write ${follows.size} different words here.`);
  if (next) notes.push(`The text continues with ${quoted(next.text)} (\u25b8). It costs the ${priced(next).map(([who, cost]) => `${data.rival ? who : "model"} ${nats(cost)} nats`).join(", the ")}` +
    (next.floor === null ? (exact ? "; the generator never writes it here." : "; the floor is unknown.") : `; the floor is ${nats(next.floor)}.`));
  else notes.push("The text ends here.");
  if (settles >= 0) notes.push(`${quoted(next ? next.text : only.word)} is determined by ${quoted(reading.tokens[settles].text)} (dashed), ${t + 1 - settles} tokens before it: ` +
    (settles < from ? `outside the receptive field, so ${data.rival ? `the ${spec.label}` : "this model"} can only guess.` : "inside the receptive field."));
  section("next", "What comes next", make("table", {}, head(["word"], [data.rival ? spec.label : "model", "number"], ...(besides ? [[data.rival.label, "number"]] : []),
    ...(exact ? [["generator", "number"]] : [])), make("tbody", {}, ...rows)), make("p", { cls: "note", text: notes.join(" ") }));
}

// The tokens that mattered for the prediction after token t, found in small parts so that the page answers meanwhile.
let task = 0;
function influence(t) { return live ? reading.records[t].influence ||= { found: [], parts: influences(model, reading.records.slice(0, t + 1), idOf.size), done: false } : { found: [], done: true }; }
function showInfluence(t) {
  const mine = ++task, { parts } = influence(t), state = influence(t);
  const run = () => {
    if (mine !== task) return;
    for (const end = performance.now() + 12; !state.done && performance.now() < end;) {
      const { value, done } = parts.next();
      if (value) state.found.push(value);
      state.done = done;
    }
    listInfluence(t, state);
    colour(t);
    if (!state.done) setTimeout(run);
  };
  if (live) { listInfluence(t, state); setTimeout(run); }
}
function listInfluence(t, { found, done }) {
  const named = [...found].sort((a, b) => b[1] - a[1]).slice(0, 5), n = replacements(spec);
  section("influence", data.rival ? `What mattered for the ${spec.label}` : "What mattered for that", make("table", {}, head(["token"], ["tokens back"], ["change", "number"]), make("tbody", {},
    ...named.map(([j, change]) => row(cell(shown(reading.tokens[j].text)), cell(String(t - j)), bar(gate(change), change, "source"))))),
  make("p", { cls: "note", text: `${done ? "" : "Still computing. "}Each token of the receptive field is replaced by ${n === 1 ? "a random other one" : `${n} random other ones in turn`}. ` +
    `The change is ${n === 1 ? "the" : "the mean"} total variation distance, 0 to 1, between the distributions of the next word before and after.` }));
}

function showGates(t) {
  if (!has.gates) return;
  const line = (name) => { const values = view(t)[name]; return row(cell(name), make("td", { cls: "track wide", style: track(values, name) }),
    ...values.map((x) => cell(gate(x), "few"))); };
  const [low, high] = data.limits.spread;
  section("gates", `Gates in layer ${layer + 1} (E6, E7)`, make("table", {}, head([""], ["0 to 1"], ["mean", "few"], [`${low} %`, "few"], [`${high} %`, "few"]),
    make("tbody", {}, line("local"), line("global"))));
}

function showSources(t) {
  if (!has.sources) return;
  const { sources, learned } = view(t), named = sources.slice(0, 5);
  const others = Math.max(0, 1 - learned - named.reduce((sum, [, share]) => sum + share, 0));
  section("sources", `Sources of recall in layer ${layer + 1} (X2 to X5)`, make("table", {}, head(["token"], ["tokens back"], ["share", "number"]), make("tbody", {},
    ...named.map(([j, share]) => row(cell(shown(reading.tokens[j].text)), cell(String(t - j)), bar(percent(share), share, "source"))),
    row(cell("other tokens"), cell(""), bar(percent(others), others, "source")),
    row(cell("the learned slots"), cell(""), bar(percent(learned), learned, "slot")))));
}

function showMemory(t) {
  if (!has.slots) return;
  const { slots, written } = view(t);
  const table = (heading, rows) => make("table", {}, head(["slot"], [heading], ["share", "number"]), make("tbody", {}, ...rows.map(([slot, share]) =>
    row(cell(String(slot)), cell(words[layer][slot].map(shown).join(", ") || "no word occurs often enough", "words"), bar(percent(share), share, "slot")))));
  const field = reach === null ? (layer ? t + 1 : 1) : Math.min(t + 1, spec.mixer === "global" ? 1 : 1 + layer * (spec.kernel - 1));
  if (written) section("written", `Slots it is written to in layer ${layer + 1} (X1)`, table("words that read it", written));
  section("memory", `Slots that respond in layer ${layer + 1} (E3 ${written ? "and E4" : "to E5"})`, table("words that excite it", slots),
    make("p", { cls: "note", text: `In layer ${layer + 1} the shares depend on ${field === 1 ? "this token and its position alone." : `the last ${field} tokens.`}` +
      ` The words come from ${count(data.rows, "row", "rows")} of the run's validation text.` }));
}

// ------------------------------------------------------------------------- typing, sampling

// Show another text, and of it the last token or the first one whose next word is decided too far back.
function open(ids, after, firstSampled, called, chosen = ids.length - 1) {
  reading = readingOf(ids, after, firstSampled, reading);
  title = called;
  held = -1;
  lay();
  show(chosen);
}
function typed() {
  const { ids, note } = parsed($("typed").value);
  $("status").textContent = note;
  if (ids.length) open(ids, null, ids.length, "typed");
}
function fill(ids) { $("typed").value = joined(ids); $("status").textContent = ""; }
function take(t, id) {
  const ids = [...reading.ids.slice(0, t + 1), id];
  if (id === data.end || ids.length > longest) { $("status").textContent = id === data.end ? "That word ends the story." : `The model has no more than ${longest} positions.`; return; }
  fill(ids);
  open(ids, null, ids.length, "typed");
}
// Let the model write at most n tokens, to the end of the story or of its positions.
function write(n) {
  const ids = [...reading.ids], start = Math.min(reading.firstSampled, ids.length);
  let { records } = reading, after = null;
  while (n > 0 && ids.length < longest && after === null) {
    const id = sample(records.at(-1).logits, temperature, Math.random());
    if (id === data.end) { after = id; break; }
    ids.push(id);
    records = model.readAll(ids, records);
    n -= 1;
  }
  fill(ids);
  $("status").textContent = after !== null ? "The model ends the story here." : ids.length === longest ? `The model has no more than ${longest} positions.` : "";
  open(ids, after, start, title);
}

const MORE = 30;

function enliven() {
  $("write").hidden = false;
  fill(reading.ids);
  if (data.kind !== "word") [$("one").textContent, $("more").textContent] = ["Write one character", `Write ${MORE} characters`];
  else $("more").textContent = `Write ${MORE} words`;
  $("typed").addEventListener("input", typed);
  $("one").addEventListener("click", () => write(1));
  $("more").addEventListener("click", () => write(MORE));
  $("temperature").addEventListener("input", () => { temperature = Number($("temperature").value); $("degrees").textContent = temperature.toFixed(1); show(at); });
  for (const { label: name, text } of data.examples) {
    const button = make("button", { type: "button", text: name });
    button.addEventListener("click", () => { $("typed").value = text; typed(); });
    $("examples").append(button);
  }
  $("vocabulary").hidden = false;
  $("vocabulary").querySelector("summary").textContent = `The ${idOf.size} ${data.kind === "word" ? "words" : "characters"} that the model knows`;
  $("vocabulary").querySelector("p").textContent = [...idOf.keys()].filter((word) => word !== names[data.end]).map(shown).join(" ");
}

// -------------------------------------------------------------------------------- controls

$("text").addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const here = buttons[at].getBoundingClientRect(), middle = here.left + here.width / 2;
  const line = (step) => {  // the nearest token in the line above or below
    let best = -1, top = null, least = Infinity;
    for (let i = at + step; buttons[i]; i += step) {
      const box = buttons[i].getBoundingClientRect();
      if (Math.abs(box.top - here.top) < 4) continue;
      if (top === null) top = box.top;
      if (Math.abs(box.top - top) >= 4) break;
      const off = Math.abs(box.left + box.width / 2 - middle);
      if (off < least) [best, least] = [i, off];
    }
    return best < 0 ? at : best;
  };
  const to = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => line(-1), ArrowDown: () => line(1),
    Home: () => 0, End: () => buttons.length - 1 }[event.key];
  if (!to) return;
  event.preventDefault();
  if (held >= 0) held = Math.min(buttons.length - 1, Math.max(0, to()));
  buttons[Math.min(buttons.length - 1, Math.max(0, to()))].focus();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hold(-1); });
for (const id of ["switches", "write"]) $(id).addEventListener("submit", (event) => event.preventDefault());
$("toggle").addEventListener("click", () => {
  const yes = $("details").classList.toggle("open");
  $("toggle").setAttribute("aria-expanded", String(yes));
  $("toggle").textContent = yes ? "Less" : "More";
  document.documentElement.classList.toggle("covered", yes);
  buttons[at].scrollIntoView({ block: "nearest" });
});

introduce();
radios($("layers"), "layer", reading.views[0].map((_, n) => [String(n), String(n + 1)]), layer, (value) => { layer = Number(value); label(); show(at); });
radios($("measures"), "measure", Object.entries(MEASURES).filter(([, { there }]) => there).map(([key, { name }]) => [key, name]), measure,
  (value) => { measure = value; label(); describe(); colour(at); });
$("layers").hidden = !has.gates && !has.slots;
lay();
const far = reading.tokens.findIndex((_, t) => following(t) && following(t).back > (reach || data.recall_beyond));
show(far < 0 ? reading.tokens.length - 1 : far);
if (live) enliven();
