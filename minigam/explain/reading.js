"use strict";
// From typed text to tokens, and from tokens to a reading: everything that the page shows about one text.
//
// reading = { ids, after, firstSampled, tokens, afterToken, views, follows, only, next(t, temperature), records }
//   tokens   one { text, cost, rival, floor, kind, back } each: its cost in nats to the model and to the rival, the
//            floor, the kind, and the distance to the word that determines it; null or 0 where unknown
//   views    for each token what each layer computed, in the form of page.py's `reading`
//   follows  for each token the words that the generator can write next: word -> probability
//   only     for each token the one word that it can write next and its distance as above, null if it has a choice
// A model that is not live has one reading, which page.py computed.

const data = JSON.parse(document.getElementById("data").textContent);
const names = data.names,
  idOf = new Map(Object.entries(names).map(([id, word]) => [word, Number(id)]));
const live = data.reason === null;
const [model, rival] = live ? embedded() : [null, null];
const longest = Math.min(data.model.block, rival ? data.rival.block : Infinity);
const generator = data.grammar && new Generator(data.grammar);

function embedded() {
  const weights = floats(document.getElementById("weights").textContent.trim());
  return [data.model, data.rival].map((spec) => spec && new Model(spec, weights, data.limits.normal));
}

// ---------------------------------------------------------------------------------- text

// As minigam's tokenizers split: words and single punctuation marks, or characters.
const TOKEN = /<story>|[\p{L}\p{N}_]+|[^\p{L}\p{N}_\p{White_Space}\x1c-\x1f]/gu;
const split = (typed) => (data.kind === "word" ? typed.match(TOKEN) || [] : [...typed]);

function joined(ids) {
  if (data.kind !== "word") return ids.map((id) => names[id]).join("");
  const text = ids
    .map((id) => names[id])
    .join(" ")
    .replace(/ ([,.!?:\u201d])/g, "$1")
    .replace(/\u201c /g, "\u201c");
  return text.replace(/ *<story> */g, "\n\n").trim();
}

// Return the ids of a typed text, up to the first word that the model does not know, and what to say about the rest.
function parsed(typed) {
  const all = split(typed),
    unknown = [...new Set(all.filter((word) => !idOf.has(word)))];
  const read = unknown.length ? all.slice(0, all.indexOf(unknown[0])) : all;
  const ids = [...(data.end === null ? [] : [data.end]), ...read.map((word) => idOf.get(word))];
  const notes = [
    unknown.length && aboutUnknown(unknown, read.length === all.length - 1 && /\S$/.test(typed)),
    ids.length > longest && `Only the first ${longest} tokens are read, as many as the model has positions.`,
  ];
  return { ids: ids.slice(0, longest), note: notes.filter(Boolean).join(" ") };
}
// `typing`: the only unknown word is the last one, and may not be complete.
function aboutUnknown(unknown, typing) {
  const few = (words) =>
    words
      .slice(0, 5)
      .map((word) => `\u201c${word}\u201d`)
      .join(", ") + (words.length > 5 ? ", \u2026" : "");
  const begun = typing ? [...idOf.keys()].filter((word) => word.startsWith(unknown[0])) : [];
  if (begun.length) return `${few(unknown)} begins ${few(begun)}`;
  const what = data.kind === "word" ? "words" : "characters",
    first = unknown.length > 1 ? "the first of them" : "it";
  return `Not among the ${idOf.size} ${what} of this model: ${few(unknown)}. The page shows the text before ${first}.`;
}

// ------------------------------------------------------------------------------- reading

// Return the n largest values, [[index, value]], the first one first of equal ones.
function largest(values, n) {
  return [...values.keys()]
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, n)
    .map((i) => [i, values[i]]);
}

// The mean of a gate over its channels, and two percentiles, interpolated.
function spread(gate) {
  const sorted = [...gate].sort((a, b) => a - b);
  const at = (percent) => {
    const place = (percent / 100) * (sorted.length - 1),
      low = Math.floor(place);
    return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  };
  return [gate.reduce((a, b) => a + b, 0) / gate.length, ...data.limits.spread.map(at)];
}

// What a block computed for one token, in the form of page.py's `_shown`.
function shownOf(block) {
  const few = (shares) => (shares ? largest(shares, data.limits.slots) : null);
  const sources =
    block.sources &&
    largest(block.sources, block.sources.filter((share) => share >= data.limits.least).length);
  return {
    local: block.localGate ? spread(block.localGate) : null,
    global: block.globalGate ? spread(block.globalGate) : null,
    slots: few(block.shares),
    written: few(block.written),
    sources: sources || null,
    learned: block.learned ?? null,
  };
}

// Return the reading of a text. `before` is the last one: what both texts share is not computed again.
function readingOf(ids, after, firstSampled, before = null) {
  const whole = after === null ? ids : [...ids, after];
  const records = live ? model.readAll(ids, before ? before.records : []) : [];
  const rivalRecords = rival ? rival.readAll(ids, before ? before.rivalRecords : []) : [];
  for (const record of [...records, ...rivalRecords]) record.logs ||= logSoftmax(record.logits);
  for (const record of records) record.shown ||= record.blocks.map(shownOf);
  const cost = (read, t) => (t > 0 && read.length ? -read[t - 1].logs[whole[t]] : null);
  const truths = generator ? generator.read(whole.map((id) => names[id])) : [];
  const tokens = whole.map((id, t) => {
    const { nats = null, back = null } = truths[t] || {};
    const kind = nats === null ? null : data.kinds[back > data.recall_beyond ? 2 : nats > 0 ? 1 : 0];
    return {
      text: names[id],
      cost: live ? cost(records, t) : t > 0 ? data.reading.costs[t - 1] : null,
      rival: cost(rivalRecords, t),
      floor: nats,
      kind,
      back: back || 0,
      sampled: t >= firstSampled,
    };
  });
  return {
    ids,
    after,
    firstSampled,
    records,
    rivalRecords,
    tokens: tokens.slice(0, ids.length),
    afterToken: tokens[ids.length] || null,
    views: live ? records.map((record) => record.shown) : data.reading.views,
    follows: ids.map((_, t) => (truths[t] ? truths[t].follows : new Map())),
    only: ids.map((_, t) => (truths[t] ? truths[t].only : null)),
    next: (t, temperature) =>
      live
        ? expected(records[t], rivalRecords[t], whole[t + 1], truths[t], temperature)
        : data.reading.next[t].map(([id, p]) => ({ id, p, rival: null })),
  };
}

// The likeliest next words, the actual one, the rival's likeliest, and the generator's if it can write one word only.
function expected(record, other, actual, truth, temperature) {
  const p = tempered(record.logits, temperature),
    q = other && tempered(other.logits, temperature);
  const wanted = [...largest(p, data.limits.next), ...(q ? largest(q, 1) : [])].map(([id]) => id);
  if (actual !== undefined) wanted.push(actual);
  if (truth && truth.only) wanted.push(idOf.get(truth.only.word));
  return [...new Set(wanted)].map((id) => ({ id, p: p[id], rival: q ? q[id] : null }));
}

// The distribution that a word is drawn from: softmax(logits / temperature); 0 is the likeliest word alone.
function tempered(logits, temperature) {
  if (temperature > 0) return softmax(logits.map((z) => z / temperature));
  const best = sample(logits, 0, 0);
  return logits.map((_, id) => Number(id === best));
}
