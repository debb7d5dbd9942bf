"use strict";
// What the generator of PocketStories knows about a text: the exact probability of every next word.
//
// The rules, parsed, are in the page; minigam/data/oracle.py reads the same rules in the same way. A place in a
// story is { rest, values, mentions }: the nodes still to come, the value of each slot, and who was mentioned where.

class Generator {
  // rules : name -> nodes; a node is a word, "<rule>", [[probability, nodes], ...], or { slot, form, by, fresh, capital }
  // slots : name -> values, each { name, ... }
  constructor({ rules, slots, start, boundary }) {
    Object.assign(this, { rules, slots, start, boundary });
  }

  // Return { nats, back, follows, only } for each word: its cost under the generator, the distance to the word that
  // determines it (0: none), both null if no story continues with it; next word -> probability; and, if the generator
  // can write one word only, that word and its distance, { word, back }.
  read(words) {
    let options = new Map();
    return words.map((word, i) => {
      const found = options.get(word),
        known = { nats: null, back: null };
      let place = found ? { ...found.place, at: found.place.at + 1 } : null;
      if (found) Object.assign(known, { nats: found.p < 1 ? -Math.log(found.p) : 0, back: found.back });
      if (word === this.boundary) place = { rest: this.rules[this.start], values: {}, mentions: [], at: 0 };
      options = place ? new Map([...this.ahead(place, 1)].map((next) => [next.word, next])) : new Map();
      const only = options.size === 1 ? [...options.values()][0] : null;
      return { ...known, follows: new Map([...options].map(([next, { p }]) => [next, p])), only };
    });
  }

  // Yield every word that can come next, as { word, p, back, place }.
  *ahead(place, p) {
    if (!place.rest.length) {
      yield { word: this.boundary, p, back: 0, place };
      return;
    }
    const [node, ...rest] = place.rest;
    if (Array.isArray(node))
      for (const [q, option] of node) yield* this.ahead({ ...place, rest: [...option, ...rest] }, p * q);
    else if (typeof node === "object") yield* this.said(node, { ...place, rest }, p);
    else if (/^<\w+>$/.test(node))
      yield* this.ahead({ ...place, rest: [...this.rules[node.slice(1, -1)], ...rest] }, p);
    else yield { word: node, p, back: 0, place: { ...place, rest } };
  }

  // A mention of a slot: its value is drawn if it is fresh, else known.
  *said(say, place, p) {
    const choices = say.fresh ? [...this.slots[say.slot].keys()] : [place.values[say.slot]];
    for (const i of choices) {
      const values = { ...place.values, [say.slot]: i },
        word = this.text(say, values);
      const back = say.fresh && !say.by ? 0 : this.lookback(say, values, place);
      yield {
        word,
        p: p / choices.length,
        back,
        place: { ...place, values, mentions: [...place.mentions, { say, word, at: place.at }] },
      };
    }
  }

  text(say, values) {
    const value = this.slots[say.slot][values[say.slot]];
    const word = value[say.by ? this.slots[say.by][values[say.by]].name : say.form];
    return say.capital ? word[0].toUpperCase() + word.slice(1) : word;
  }

  // Return how many words back the mention is that, with all later ones, determines what `say` is.
  lookback(say, values, place) {
    const slots = say.by ? [say.slot, say.by] : [say.slot];
    const all = (slot) => [...this.slots[slot].keys()];
    const among = Object.fromEntries(
      slots.map((slot) => [slot, say.fresh && slot === say.slot ? [values[slot]] : all(slot)]),
    );
    for (const mention of [...place.mentions].reverse()) {
      for (const slot of slots) {
        if (slot !== mention.say.slot && slot !== mention.say.by) continue;
        const other = slot === mention.say.slot ? mention.say.by : mention.say.slot;
        among[slot] = among[slot].filter((i) =>
          (other ? all(other) : [0]).some(
            (k) => this.text(mention.say, { [slot]: i, ...(other && { [other]: k }) }) === mention.word,
          ),
        );
      }
      const texts = among[slots[0]].flatMap((i) =>
        (slots[1] ? among[slots[1]] : [0]).map((k) => this.text(say, { [slots[0]]: i, [slots[1]]: k })),
      );
      if (new Set(texts).size === 1) return place.at - mention.at;
    }
    return null;
  }
}
