"use strict";
// The panel: what is known about one token, and the shades of the words that it depends on.

const row = (...cells) => make("tr", {}, ...cells);
const cell = (text, cls = "") => make("td", { text, cls });
const bar = (text, share, hue) => make("td", { cls: "number", text, style: { share, hue: `var(--${hue})` } });
function table(titles, rows) {
  const heads = titles.map(([text, cls = ""]) => make("th", { text, cls, scope: "col" }));
  return make("table", {}, make("thead", {}, row(...heads)), make("tbody", {}, ...rows));
}
function section(id, heading, ...nodes) {
  $(id).replaceChildren(make("h3", { text: heading }), ...nodes);
}
const note = (...sentences) => make("p", { cls: "note", text: sentences.filter(Boolean).join(" ") });

// Show everything about token t, whose receptive field begins at token `from`.
function fill(t, from, expected, settles) {
  $("token").textContent = shown(reading.tokens[t].text);
  $("said").setAttribute("aria-live", document.activeElement === $("typed") ? "off" : "polite"); // not at every key
  $("said").textContent = summary(t, from, expected);
  showNext(t, from, expected, settles);
  showInfluence(t);
  showSources(t);
  showGates(t);
  showMemory(t);
  colour(t);
}

function summary(t, from, expected) {
  const { kind, sampled } = reading.tokens[t],
    n = t - from + 1;
  const field =
    n === 1
      ? "this token alone"
      : reach === null
        ? `all ${n} tokens so far`
        : `${n} tokens, from ${quoted(reading.tokens[from].text)} on`;
  const say = (word, share, where) => `${quoted(word)}, ${where} (${percent(share)})`;
  return [
    [`Token ${t + 1} of ${reading.tokens.length}`, kind, sampled && "sampled", held >= 0 && "held"]
      .filter(Boolean)
      .join(", ") + ".",
    `Receptive field: ${field}.`,
    has.sources && `Its recall comes most from ${source(t, say, "the learned slots")}.`,
    `Most likely next: ${likeliest(expected)}.`,
  ]
    .filter(Boolean)
    .join(" ");
}
function likeliest(expected) {
  const best = (who) => {
    const top = expected.reduce((a, b) => (b[who] > a[who] ? b : a));
    return `${quoted(names[top.id])} (${percent(top[who])})`;
  };
  return expected[0].rival === null
    ? best("p")
    : `${spec.label} ${best("p")}, ${opponent.label} ${best("rival")}`;
}

// -------------------------------------------------------------------------------- next

function showNext(t, from, expected, settles) {
  const next = following(t),
    follows = reading.follows[t],
    exact = follows.size > 0,
    compared = expected[0].rival !== null;
  const rows = expected.map(({ id, p, rival: q }) => {
    const word = names[id],
      is = next && word === next.text,
      exactly = follows.get(word) || 0;
    const line = row(
      make("td", { text: is ? "\u25b8 " : "" }, live ? continuing(t, id) : shown(word)),
      bar(percent(p), p, "cost"),
    );
    if (compared) line.append(bar(percent(q), q, "rival"));
    if (exact) line.append(bar(percent(exactly), exactly, "exact"));
    if (is) line.className = "next";
    return line;
  });
  const heads = [["word"], [compared ? spec.label : "model", "number"]];
  if (compared) heads.push([opponent.label, "number"]);
  if (exact) heads.push(["generator", "number"]);
  section(
    "next",
    "What comes next",
    table(heads, rows),
    note(
      temperature !== 1 &&
        `At temperature ${temperature.toFixed(1)}: the shares that a word is drawn by. Surprise is always measured at 1.`,
      exact && choices(follows, reading.only[t], next),
      next ? continuation(next, exact) : "The text ends here.",
      settles >= 0 && decision(t, from, settles, next || reading.only[t]),
    ),
  );
}
function choices(follows, only, next) {
  if (!only) return `The generator can write ${follows.size} different words here.`;
  return `The generator can write one word here${next ? "" : `, ${quoted(only.word)}`}.`;
}
function continuation(next, exact) {
  const costs = priced(next)
    .map(([who, cost]) => `${opponent ? who : "model"} ${nats(cost)} nats`)
    .join(", the ");
  const floor =
    next.floor !== null
      ? `the floor is ${nats(next.floor)}`
      : exact
        ? "the generator never writes it here"
        : "the floor is unknown";
  return `The text continues with ${quoted(next.text)} (\u25b8). It costs the ${costs}; ${floor}.`;
}
function decision(t, from, settles, decided) {
  const where =
    settles >= from
      ? "inside the receptive field."
      : `outside the receptive field, so ${opponent ? `the ${spec.label}` : "this model"} can only guess.`;
  return `${quoted(decided.text ?? decided.word)} is determined by ${quoted(reading.tokens[settles].text)} (dashed), ${t + 1 - settles} tokens before it: ${where}`;
}
// A word of the table: pressed, the text continues with it after token t.
function continuing(t, id) {
  const button = make("button", {
    type: "button",
    cls: "take",
    text: shown(names[id]),
    title: `Let the text continue with ${quoted(names[id])} here`,
  });
  button.addEventListener("click", () => take(t, id));
  return button;
}

// --------------------------------------------------------------------------- influence

// The tokens that mattered for the prediction after token t, found in small parts so that the page answers meanwhile.
let task = 0;
function influence(t) {
  const start = () => ({
    found: [],
    parts: influences(model, reading.records.slice(0, t + 1), idOf.size),
    done: false,
  });
  return (reading.records[t].influence ||= start());
}
function showInfluence(t) {
  if (!live) return;
  const mine = ++task,
    state = influence(t);
  const run = () => {
    if (mine !== task) return; // another token is shown by now
    for (const end = performance.now() + 12; !state.done && performance.now() < end;) {
      const { value, done } = state.parts.next();
      if (value) state.found.push(value);
      state.done = done;
    }
    listInfluence(t, state);
    colour(t);
    if (!state.done) setTimeout(run);
  };
  listInfluence(t, state);
  setTimeout(run);
}
function listInfluence(t, { found, done }) {
  const most = [...found].sort((a, b) => b[1] - a[1]).slice(0, 5),
    n = replacements(fieldOf(spec, t));
  const rows = most.map(([j, change]) =>
    row(cell(shown(reading.tokens[j].text)), cell(String(t - j)), bar(gate(change), change, "source")),
  );
  section(
    "influence",
    opponent ? `What mattered for the ${spec.label}` : "What mattered for that",
    table([["token"], ["tokens back"], ["change", "number"]], rows),
    note(
      !done && "Still computing.",
      `Each token of the receptive field is replaced by ${n === 1 ? "a random other one" : `${n} random other ones in turn`}.`,
      `The change is ${n === 1 ? "the" : "the mean"} total variation distance, 0 to 1, between the distributions of the next word before and after.`,
    ),
  );
}

// Shade the words that the recall comes from, or those that mattered for what comes next.
function colour(t) {
  const recall = measure === "recall";
  const shares = new Map(recall ? view(t).sources : live ? influence(t).found : []);
  const full = recall ? Math.max(...shares.values()) : 0.5;
  buttons.forEach((button, i) => {
    button.classList.toggle("source", shares.has(i));
    button.firstChild.style.setProperty("--level", level((shares.get(i) || 0) / full));
  });
}

// --------------------------------------------------------------------- gates and memory

function showGates(t) {
  if (!has.gates) return;
  const line = (name) =>
    row(
      cell(name),
      make("td", { cls: "track wide", style: track(view(t)[name], name) }),
      ...view(t)[name].map((x) => cell(gate(x), "few")),
    );
  const heads = [[""], ["0 to 1"], ["mean", "few"], [`${LOW} %`, "few"], [`${HIGH} %`, "few"]];
  section("gates", `Gates in layer ${layer + 1} (E6, E7)`, table(heads, [line("local"), line("global")]));
}

function showSources(t) {
  if (!has.sources) return;
  const { sources, learned } = view(t),
    most = sources.slice(0, 5);
  const others = Math.max(0, 1 - learned - most.reduce((sum, [, share]) => sum + share, 0));
  const lines = [
    ...most.map(([j, share]) => [shown(reading.tokens[j].text), String(t - j), share, "source"]),
    ["other tokens", "", others, "source"],
    ["the learned slots", "", learned, "slot"],
  ];
  section(
    "sources",
    `Sources of recall in layer ${layer + 1} (X2 to X5)`,
    table(
      [["token"], ["tokens back"], ["share", "number"]],
      lines.map(([word, distance, share, hue]) =>
        row(cell(word), cell(distance), bar(percent(share), share, hue)),
      ),
    ),
  );
}

function showMemory(t) {
  if (!has.slots) return;
  const { slots, written } = view(t);
  const wordsOf = (slot) => data.words[layer][slot].map(shown).join(", ") || "no word occurs often enough";
  const list = (heading, rows) =>
    table(
      [["slot"], [heading], ["share", "number"]],
      rows.map(([slot, share]) =>
        row(cell(String(slot)), cell(wordsOf(slot), "words"), bar(percent(share), share, "slot")),
      ),
    );
  if (written)
    section(
      "written",
      `Slots it is written to in layer ${layer + 1} (X1)`,
      list("words that read it", written),
    );
  const seen =
    reach === null
      ? layer
        ? t + 1
        : 1
      : spec.mixer === "global"
        ? 1
        : Math.min(t + 1, 1 + layer * (spec.kernel - 1));
  section(
    "memory",
    `Slots that respond in layer ${layer + 1} (E3 ${written ? "and E4" : "to E5"})`,
    list("words that excite it", slots),
    note(
      `In layer ${layer + 1} the shares depend on ${seen === 1 ? "this token and its position alone" : `the last ${seen} tokens`}.`,
      `The words come from ${count(data.rows, "row", "rows")} of the run's validation text.`,
    ),
  );
}
