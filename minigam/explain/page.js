"use strict";
// The text as buttons, the texts that depend on the model, and the controls.

let title = data.text.title,
  at = 0,
  held = -1,
  buttons = [];
const narrow = matchMedia("(max-width: 51.99rem)");
const MORE = 30; // tokens that the model writes at once

// ----------------------------------------------------------------------------- the text

// One button per token. Only the current one has tabindex 0: arrow keys move in the text, Tab leaves it.
function lay() {
  buttons = reading.tokens.map((token, t) => {
    const word = make("span", { cls: "word", text: shown(token.text) });
    const kind = { choice: "\u25c7", recall: "\u21a9" }[token.kind];
    if (kind) word.append(make("span", { cls: "kind", text: kind, "aria-hidden": "true" }));
    const button = make("button", { type: "button", tabindex: "-1" }, word, make("span", { cls: "chips" }));
    button.classList.toggle("sampled", token.sampled);
    button.addEventListener("mouseenter", () => {
      if (held < 0) show(t);
    });
    button.addEventListener("focus", () => show(t));
    button.addEventListener("click", () => hold(held === t ? -1 : t));
    return button;
  });
  $("text").replaceChildren(...buttons.map((button) => make("li", {}, button)));
  label();
  describe();
}

function label() {
  const { chips, describe: say, scale } = MEASURES[measure];
  $("scale").textContent = scale();
  buttons.forEach((button, t) => {
    const { text, kind, sampled } = reading.tokens[t];
    button.lastChild.replaceChildren(
      ...chips(t).map(({ cls = "", ...chip }) => make("span", { ...chip, cls: `chip${cls}` })),
    );
    button.setAttribute(
      "aria-label",
      [shown(text), kind !== "syntax" && kind, sampled && "sampled", say(t)].filter(Boolean).join(", "),
    );
  });
}

function show(t) {
  at = t;
  const from = t + 1 - fieldOf(spec, t);
  const decided = following(t) || reading.only[t]; // the word that the text continues with, or the only one that it can
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
  fill(t, from, reading.next(t, temperature), settles);
}

function hold(t) {
  held = t;
  show(t < 0 ? at : t);
  if (narrow.matches) buttons[at].scrollIntoView({ block: "nearest" });
}

// What the generator knows of this text, and the marks that occur in it.
function describe() {
  const { tokens } = reading,
    unknown = tokens.findIndex((token, t) => t && token.floor === null);
  const kinds = new Set(tokens.map((token) => token.kind)),
    sampled = tokens.filter((token) => token.sampled).length;
  $("known").textContent = !generator
    ? `The generator of ${data.corpus} is unknown, and so is the entropy floor of this text. The page shows what the model expects, but not what the best possible model would.`
    : unknown > 0
      ? `The generator of PocketStories never writes ${quoted(tokens[unknown].text)} here (token ${unknown + 1}). From there on, the exact probabilities and the floor are unknown and not shown.`
      : "The generator of PocketStories can write this text, so the exact probability of every next word is known. It gives the entropy floor, which no model can beat on average.";
  $("marks").textContent = [
    `This is ${title}${sampled ? `, followed by ${count(sampled, "token", "tokens")} that the model sampled` : ""}.`,
    kinds.has("choice") && "\u25c7 choice: the generator chose this word at random.",
    kinds.has("recall") && `\u21a9 recall: determined by a word more than ${data.recall_beyond} tokens back.`,
    sampled && "Italic, dotted underline: sampled by the model.",
    live &&
      measure !== "recall" &&
      "Yellow: the words that mattered for what comes next; a full shade is a change of 0.5 or more.",
    "Click or tap a token to hold it; click again or press Esc to release it.",
  ]
    .filter(Boolean)
    .join(" ");
  document.title = `Inside a ${spec.label}: ${data.run}, ${title}`;
}

// ------------------------------------------------------------------------------ the model

const LACKS = {
  sum: "This model's mixer, sum, adds the local and the global context without a gate (no E6, and no sigmoid in E7). There are no gates to show.",
  local:
    "This model's mixer, local, is the convolution alone, without memory (E3 to E5) or gate (E6, E7). There are no slots and no gates to show.",
  global:
    "This model's mixer, global, is the memory alone, without convolution (E2) or gate (E6, E7). There are no gates to show.",
  written:
    "This model is minigam's extension of GAM, not in the paper: every token is written into the memory (X1 to X5), and later tokens recall it. " +
    "Under Recall, the words that the recall of the chosen token comes from are shaded yellow; the largest share has the full shade. " +
    "A layer recalls vectors: in the first layer a vector is a word and its position, in later ones it can also hold what came before.",
};

// The texts of the page that depend on the model alone.
function introduce() {
  const size = [
    count(spec.layers, "layer", "layers"),
    `${spec.channels} channels`,
    has.slots && `${spec.slots} slots per layer`,
    `mixer ${spec.mixer}`,
    `${spec.parameters.toLocaleString("en")} parameters`,
  ];
  const other = opponent
    ? ` Next to it: a ${opponent.label} with ${opponent.parameters.toLocaleString("en")} parameters.`
    : "";
  $("label").textContent = spec.label;
  $("about").textContent = `Run ${data.run} on ${data.corpus}: ${size.filter(Boolean).join(", ")}.${other}`;
  if (!live)
    $("live").textContent =
      `The model is not part of this page: ${data.reason}. So the page shows one text only, and not which words ` +
      "mattered. \u201cminigam explain --prompt\u201d makes the page of another text.";
  const sum =
    `1 + L (K \u2212 1) = 1 + ${spec.layers} (${spec.kernel} \u2212 1) = ${count(reach, "token", "tokens")}`.replace(
      / (?!=)/g,
      "\u00a0",
    );
  const span =
    reach === null
      ? "all tokens up to it"
      : spec.mixer === "global"
        ? "1 token (only a convolution reads other tokens, and this model has none)"
        : sum;
  const lists = [
    "the words the model expects next",
    live && "the tokens that mattered for that",
    has.slots && "the memory slots that respond, with the words of the validation text that excite each most",
  ];
  $("legend").append(
    make("p", {
      text:
        "Each box is a token that the model has read. Point at a token, tap it, or move to it with the arrow keys. " +
        "A bar above marks its receptive field, the tokens that the model's output there depends on: " +
        `${span}. Paler tokens cannot change anything that is shown for it. The panel lists ${lists.filter(Boolean).join("; ")}.`,
    }),
  );
  if (LACKS[spec.mixer]) $("legend").append(make("p", { text: LACKS[spec.mixer] }));
  $("legend").open = !narrow.matches && !live;
  for (const node of document.querySelectorAll("[data-mixers]"))
    node.hidden = !node.dataset.mixers.split(" ").includes(spec.mixer);
}

// ------------------------------------------------------------------------- typing, sampling

// Show another text, and of it the last token.
function open(ids, after, firstSampled, called) {
  reading = readingOf(ids, after, firstSampled, reading);
  title = called;
  held = -1;
  lay();
  show(ids.length - 1);
}
function typed() {
  const { ids, note: said } = parsed($("typed").value);
  $("status").textContent = said;
  if (ids.length) open(ids, null, ids.length, "your text");
}
function write(ids, said = "") {
  $("typed").value = joined(ids);
  $("status").textContent = said;
}
const FULL = `The model has no more than ${longest} positions.`;

// Let the text continue with a word after token t.
function take(t, id) {
  const ids = [...reading.ids.slice(0, t + 1), id],
    stop = id === data.end ? "That word ends the story." : ids.length > longest ? FULL : "";
  if (stop) {
    $("status").textContent = stop;
    return;
  }
  write(ids);
  open(ids, null, ids.length, "your text");
}
// Let the model write at most n tokens, to the end of the story or of its positions.
function sampleOn(n) {
  const ids = [...reading.ids],
    start = Math.min(reading.firstSampled, ids.length);
  let { records } = reading,
    after = null;
  for (let i = 0; i < n && ids.length < longest && after === null; i += 1) {
    const id = sample(records.at(-1).logits, temperature, Math.random());
    if (id === data.end) after = id;
    else {
      ids.push(id);
      records = model.readAll(ids, records);
    }
  }
  write(ids, after !== null ? "The model ends the story here." : ids.length === longest ? FULL : "");
  open(ids, after, start, title);
}

function enliven() {
  const [one, many] = data.kind === "word" ? ["word", "words"] : ["character", "characters"];
  $("write").hidden = $("vocabulary").hidden = false;
  write(reading.ids);
  $("one").textContent = `Write one ${one}`;
  $("more").textContent = `Write ${MORE} ${many}`;
  $("typed").addEventListener("input", typed);
  $("one").addEventListener("click", () => sampleOn(1));
  $("more").addEventListener("click", () => sampleOn(MORE));
  $("temperature").addEventListener("input", () => {
    temperature = Number($("temperature").value);
    $("degrees").textContent = temperature.toFixed(1);
    show(at);
  });
  for (const { label: name, text } of data.examples) {
    const button = make("button", { type: "button", text: name });
    button.addEventListener("click", () => {
      $("typed").value = text;
      typed();
    });
    $("examples").append(button);
  }
  $("vocabulary").querySelector("summary").textContent = `The ${idOf.size} ${many} that the model knows`;
  $("vocabulary").querySelector("p").textContent = [...idOf.keys()]
    .filter((word) => word !== names[data.end])
    .map(shown)
    .join(" ");
}

// -------------------------------------------------------------------------------- controls

function radios(fieldset, name, options, chosen, choose) {
  for (const [value, text] of options) {
    const input = make("input", { type: "radio", name, value });
    input.checked = value === String(chosen);
    input.addEventListener("change", () => choose(value));
    fieldset.append(make("label", { text }, input));
  }
}

// The nearest token in the line above (step -1) or below (1) the current one.
function inLine(step) {
  const here = buttons[at].getBoundingClientRect(),
    middle = here.left + here.width / 2;
  let best = at,
    top = null,
    least = Infinity;
  for (let i = at + step; buttons[i]; i += step) {
    const box = buttons[i].getBoundingClientRect();
    if (Math.abs(box.top - here.top) < 4) continue;
    top ??= box.top;
    if (Math.abs(box.top - top) >= 4) break;
    const off = Math.abs(box.left + box.width / 2 - middle);
    if (off < least) [best, least] = [i, off];
  }
  return best;
}
const MOVES = {
  ArrowLeft: () => at - 1,
  ArrowRight: () => at + 1,
  ArrowUp: () => inLine(-1),
  ArrowDown: () => inLine(1),
  Home: () => 0,
  End: () => buttons.length - 1,
};
$("text").addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const to = Math.min(buttons.length - 1, Math.max(0, move()));
  if (held >= 0) held = to;
  buttons[to].focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hold(-1);
});
for (const id of ["switches", "write"]) $(id).addEventListener("submit", (event) => event.preventDefault());
// On a phone the panel is a sheet that starts collapsed; the token that is shown stays visible above it.
function unfold(yes) {
  $("details").classList.toggle("open", yes);
  $("toggle").setAttribute("aria-expanded", String(yes));
  $("toggle").textContent = yes ? "Hide details" : "Details";
  document.documentElement.classList.toggle("covered", yes);
}
$("toggle").addEventListener("click", () => {
  unfold(!$("details").classList.contains("open"));
  buttons[at].scrollIntoView({ block: "nearest" });
});
for (const link of document.querySelectorAll("#equations a"))
  link.addEventListener("click", () => unfold(true));

// ------------------------------------------------------------------------------------ start

introduce();
radios(
  $("layers"),
  "layer",
  reading.views[0].map((_, n) => [String(n), String(n + 1)]),
  layer,
  (value) => {
    layer = Number(value);
    label();
    show(at);
  },
);
radios(
  $("measures"),
  "measure",
  Object.entries(MEASURES)
    .filter(([, { there }]) => there)
    .map(([key, { name }]) => [key, name]),
  measure,
  (value) => {
    measure = value;
    label();
    describe();
    colour(at);
  },
);
$("layers").hidden = !has.gates && !has.slots;
lay();
const far = reading.tokens.findIndex(
  (_, t) => following(t) && following(t).back > (reach || data.recall_beyond),
);
show(far < 0 ? reading.tokens.length - 1 : far); // a word that is decided too far back, if there is one
if (live) enliven();
