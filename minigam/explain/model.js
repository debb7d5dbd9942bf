"use strict";
// The forward pass of a GAM (E1 to E9, X1 to X5) and of a Transformer, one token at a time, in plain JavaScript.
//
// What a model computes for one token is a record: { id, blocks, logits }. The records of the tokens before are
// all that it needs to read one more: they are its cache. Vectors are Float64Arrays, weights are float32.
// Nothing here knows the page.

// Return the numbers of a base64 text that holds little-endian float32.
function floats(base64) {
  const text = atob(base64),
    bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

// y = W x + b, for W (rows, columns) and a vector x; no b adds nothing.
function linear(W, x, b = null) {
  const n = x.length,
    rows = W.length / n,
    y = new Float64Array(rows);
  for (let i = 0, at = 0; i < rows; i += 1) {
    let sum = b ? b[i] : 0;
    for (let j = 0; j < n; j += 1, at += 1) sum += W[at] * x[j];
    y[i] = sum;
  }
  return y;
}

const add = (x, y) => x.map((value, i) => value + y[i]);
const rowOf = (W, i, n) => W.subarray(i * n, (i + 1) * n);

function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i += 1) sum += x[i] * y[i];
  return sum;
}

// The sum of rows, each times its weight: what E5, X5 and attention all end with.
function mixture(weights, rows, n) {
  const y = new Float64Array(n);
  for (let j = 0; j < weights.length; j += 1) {
    const row = rows(j);
    for (let c = 0; c < n; c += 1) y[c] += weights[j] * row[c];
  }
  return y;
}

function layerNorm(x, weight, bias) {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const scale = 1 / Math.sqrt(variance + 1e-5);
  return x.map((value, c) => (value - mean) * scale * weight[c] + bias[c]);
}

function softmax(z) {
  const most = z.reduce((a, b) => Math.max(a, b), -Infinity),
    e = z.map((value) => Math.exp(value - most));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

function logSoftmax(z) {
  const most = z.reduce((a, b) => Math.max(a, b), -Infinity);
  const log = Math.log(z.reduce((sum, value) => sum + Math.exp(value - most), 0));
  return z.map((value) => value - most - log);
}

// The value of a polynomial, its highest power first.
function polynomial(coefficients, x) {
  let y = 0;
  for (let i = 0; i < coefficients.length; i += 1) y = y * x + coefficients[i];
  return y;
}

const sigmoid = (z) => 1 / (1 + Math.exp(-z));

class Model {
  // spec    : { type, mixer, layers, channels, heads, prior, arrays: { name: [start, length] } }
  // weights : Float32Array that holds all parameters
  // normal  : { p, q, end }, the coefficients of Phi(-x) / phi(x) = p(x) / q(x), as minigam.engine.numeric has them
  constructor(spec, weights, normal) {
    this.spec = spec;
    this.normal = normal;
    const get = (name) => {
      const at = spec.arrays[name];
      return at && weights.subarray(at[0], at[0] + at[1]);
    };
    this.embedding = get("token_embedding.weight");
    this.positions = get("position_embedding.weight");
    this.norm = [get("norm.weight"), get("norm.bias")];
    this.blocks = Array.from({ length: spec.layers }, (_, n) => (name) => get(`blocks.${n}.${name}`));
    this.blocks = this.blocks.map((of) =>
      Object.fromEntries(
        [
          "norm1.weight",
          "norm1.bias",
          "norm2.weight",
          "norm2.bias",
          "conv.weight",
          "conv.bias",
          "memory",
          "gate.weight",
          "gate.bias",
          "attention.qkv.weight",
          "attention.qkv.bias",
          "attention.out.weight",
          "attention.out.bias",
          "feed.expand.weight",
          "feed.expand.bias",
          "feed.contract.weight",
          "feed.contract.bias",
        ].map((name) => [name, of(name)]),
      ),
    );
  }

  // Read token `id` after the tokens whose records are `before`; return its record. `head` false: no logits.
  read(before, id, head = true) {
    const C = this.spec.channels,
      blocks = [];
    let x = add(Float64Array.from(rowOf(this.embedding, id, C)), rowOf(this.positions, before.length, C));
    this.blocks.forEach((W, n) => {
      const past = (j) => before[j].blocks[n];
      const u = layerNorm(x, W["norm1.weight"], W["norm1.bias"]); // E1
      const block =
        this.spec.type === "gam"
          ? this.mixed(W, u, past, before.length)
          : this.attended(W, u, past, before.length);
      x = add(x, block.mix); // E8
      x = add(x, this.feedForward(W, layerNorm(x, W["norm2.weight"], W["norm2.bias"]))); // E9
      blocks.push(block);
    });
    return { id, blocks, logits: head ? linear(this.embedding, layerNorm(x, ...this.norm)) : null };
  }

  // Return the records of `ids`. Those of `known` serve again as far as the ids are the same.
  readAll(ids, known = []) {
    let same = 0;
    while (same < ids.length && same < known.length && known[same].id === ids[same]) same += 1;
    const records = known.slice(0, same);
    while (records.length < ids.length) records.push(this.read(records, ids[records.length]));
    return records;
  }

  // What a block of a GAM adds to its input, and how; `past(j)` is what it computed for token j < t.
  mixed(W, u, past, t) {
    const { mixer, channels: C, prior } = this.spec,
      block = { u },
      M = W["memory"];
    if (mixer !== "global") block.localContext = this.convolved(W, u, past, t); // E2
    if (mixer !== "local") block.shares = softmax(linear(M, u)); // E3, E4
    const slot = (s) => rowOf(M, s, C);
    if (mixer === "written") {
      block.written = softmax(linear(M, block.localContext)); // X1
      const held = t ? past(t - 1).held : new Float64Array(block.written.length).fill(prior);
      block.held = add(held, block.written); // X2: n
      const r = block.shares.map((share, s) => share / block.held[s]);
      block.sources = new Float64Array(t + 1).map((_, j) => dot(r, j < t ? past(j).written : block.written));
      block.learned = prior * r.reduce((a, b) => a + b, 0);
      const read = mixture(block.sources, (j) => (j < t ? past(j).u : u), C); // X3 to X5: every u, by its share
      block.globalContext = add(
        read,
        mixture(
          r.map((x) => x * prior),
          slot,
          C,
        ),
      ); // and the learned slots
    } else if (mixer !== "local") block.globalContext = mixture(block.shares, slot, C); // E5
    if (mixer === "gated" || mixer === "written") {
      const gates = linear(W["gate.weight"], u, W["gate.bias"]).map(sigmoid); // E6
      block.localGate = gates.subarray(0, C);
      block.globalGate = gates.subarray(C);
      block.mix = u.map(
        (_, c) => block.localGate[c] * block.localContext[c] + block.globalGate[c] * block.globalContext[c],
      ); // E7
    } else
      block.mix =
        mixer === "sum"
          ? add(block.localContext, block.globalContext)
          : block.localContext || block.globalContext;
    return block;
  }

  // E2: the last K vectors, each channel by its own K weights; what lies before the text is zero.
  convolved(W, u, past, t) {
    const weight = W["conv.weight"],
      K = weight.length / u.length,
      y = Float64Array.from(W["conv.bias"]);
    for (let j = Math.max(0, K - 1 - t); j < K; j += 1) {
      const from = j === K - 1 ? u : past(t - (K - 1) + j).u;
      for (let c = 0; c < y.length; c += 1) y[c] += weight[c * K + j] * from[c];
    }
    return y;
  }

  // Causal attention: each head mixes the values of all tokens so far by softmax(q k / sqrt D).
  attended(W, u, past, t) {
    const { channels: C, heads } = this.spec,
      D = C / heads,
      y = new Float64Array(C);
    const qkv = linear(W["attention.qkv.weight"], u, W["attention.qkv.bias"]);
    const of = (j) => (j < t ? past(j).qkv : qkv);
    for (let h = 0; h < C; h += D) {
      const q = qkv.subarray(h, h + D),
        scores = new Float64Array(t + 1);
      for (let j = 0; j <= t; j += 1) scores[j] = dot(q, of(j).subarray(C + h, C + h + D)) / Math.sqrt(D);
      y.set(
        mixture(softmax(scores), (j) => of(j).subarray(2 * C + h, 2 * C + h + D), D),
        h,
      );
    }
    return { qkv, mix: linear(W["attention.out.weight"], y, W["attention.out.bias"]) };
  }

  feedForward(W, x) {
    const hidden = linear(W["feed.expand.weight"], x, W["feed.expand.bias"]);
    for (let i = 0; i < hidden.length; i += 1) hidden[i] *= this.Phi(hidden[i]);
    return linear(W["feed.contract.weight"], hidden, W["feed.contract.bias"]);
  }

  // The distribution function of the standard normal: GELU is z Phi(z).
  Phi(z) {
    const { p, q, end } = this.normal,
      size = Math.min(Math.abs(z), end);
    const tail =
      ((Math.exp(-0.5 * size * size) / Math.sqrt(2 * Math.PI)) * polynomial(p, size)) / polynomial(q, size);
    return z < 0 ? tail : 1 - tail;
  }
}

// Half the sum of the absolute differences of two distributions, 0 to 1.
function totalVariation(p, q) {
  return 0.5 * p.reduce((sum, value, i) => sum + Math.abs(value - q[i]), 0);
}

// How many random other words stand in for each of n tokens, one after the other: 4, or fewer where n is large,
// because a token is followed by up to n others that are read again.
const replacements = (n) => Math.max(1, Math.min(4, Math.floor(10_000 / (n * (n + 1)))));
const fieldOf = (spec, t) => Math.min(t + 1, spec.reach ?? Infinity); // the tokens that output t depends on

// Yield [j, distance] for each token j that the prediction after the last record depends on, the nearest first:
// the mean total variation distance between its next-word distributions with token j and with another word.
function* influences(model, records, vocabulary) {
  const t = records.length - 1,
    before = softmax(records[t].logits),
    field = fieldOf(model.spec, t),
    times = replacements(field);
  for (let j = t; j > t - field; j -= 1) {
    let sum = 0;
    for (const other of otherIds(records[j].id, j, times, vocabulary)) {
      const changed = records.slice(0, j);
      for (let i = j; i <= t; i += 1) {
        changed.push(model.read(changed, i === j ? other : records[i].id, i === t));
        yield null; // a place to pause
      }
      sum += totalVariation(before, softmax(changed[t].logits));
    }
    yield [j, sum / times];
  }
}

// Return so many other ids: a random one, and more at equal distances, so that no two are the same.
function otherIds(id, seed, times, vocabulary) {
  const shares = Array.from({ length: times }, (_, k) => (random(seed) + k / times) % 1);
  return shares.map((share) => (id + 1 + Math.floor(share * (vocabulary - 1))) % vocabulary);
}

// A number from 0 to 1 that depends on a seed alone, so that a page always shows the same (a hash by multiplication).
function random(seed) {
  let h = Math.imul(seed + 1, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return ((h ^ (h >>> 13)) >>> 0) / 2 ** 32;
}

// Draw an id from softmax(logits / temperature); temperature 0 takes the likeliest. `u` is uniform from 0 to 1.
function sample(logits, temperature, u) {
  if (temperature === 0) return logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
  const p = softmax(logits.map((z) => z / temperature));
  let id = 0;
  while (id < p.length - 1 && (u -= p[id]) >= 0) id += 1;
  return id;
}
