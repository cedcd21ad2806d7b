// Two sides and what links their tensors, as numbers; made for a hundred thousand of them.

class Links {
  constructor(data) {
    this.data = data;
    const names = unfolded(data.names);
    this.names = data.sides.map((side) => side.names.map((name) => names[name]));
    this.columns = [data.links.left, data.links.right];
    this.first = this.names.map((side) => new Int32Array(side.length).fill(-1)); // a tensor's first link
    this.more = [new Map(), new Map()]; // and all of them, where there are several
    this.states = this.names.map((side) => new Uint32Array(side.length)); // a bit for each state it is in
    this.counts = data.states.map(() => 0);
    data.links.state.forEach((state, link) => {
      this.counts[state]++;
      this.columns.forEach((column, side) => each(column[link], (tensor) => this.join(side, tensor, link, state)));
    });
    this.kinds = [0, 1].map((side) => this.kindsOf(side));
  }

  join(side, tensor, link, state) {
    this.states[side][tensor] |= 1 << state;
    if (this.first[side][tensor] < 0) this.first[side][tensor] = link;
    else if (this.more[side].has(tensor)) this.more[side].get(tensor).push(link);
    else this.more[side].set(tensor, [this.first[side][tensor], link]);
  }

  /** Tensors of one side that a link ends at. */
  ends(side, link) {
    const end = this.columns[side][link];
    return typeof end === "number" ? [end] : end;
  }

  /** Links of a tensor. */
  of(side, tensor) {
    const first = this.first[side][tensor];
    return first < 0 ? [] : (this.more[side].get(tensor) ?? [first]);
  }

  /** What a tensor is linked with. */
  others(side, tensor) {
    return this.of(side, tensor).flatMap((link) => this.ends(1 - side, link));
  }

  stateOf(link) {
    return this.data.states[this.data.links.state[link]];
  }

  /** Shape and dtype of a tensor. */
  kind(side, tensor) {
    return this.data.kinds[this.data.sides[side].kinds[tensor]];
  }

  /** A number for all that must be equal of tensors for their layers to be taken together. */
  kindsOf(side) {
    const { links, sides } = this.data;
    const numbers = new Map();
    return Int32Array.from(this.names[side], (_, tensor) => {
      const link = this.first[side][tensor];
      const others = link < 0 ? "" : this.ends(1 - side, link).map((other) => sides[1 - side].kinds[other]).join();
      const text = `${sides[side].kinds[tensor]};${this.states[side][tensor]};${links.rule[link]};${others}`;
      if (!numbers.has(text)) numbers.set(text, numbers.size);
      return numbers.get(text);
    });
  }

  /** Tensors of both sides to be shown: their link is in no hidden state, and either end has all words in its name. */
  chosen(query, hidden) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) this.lower ??= this.names.map((names) => names.map((name) => name.toLowerCase()));
    const fits = (side, tensor) => words.every((word) => this.lower[side][tensor].includes(word));
    const found = this.names.map((names) => new Uint8Array(names.length));
    this.data.links.state.forEach((state, link) => {
      if (hidden.has(state)) return;
      if (words.length && ![0, 1].some((side) => this.ends(side, link).some((tensor) => fits(side, tensor)))) return;
      this.columns.forEach((column, side) => each(column[link], (tensor) => (found[side][tensor] = 1)));
    });
    return found;
  }

  /** The right's chosen tensors in the order of what they are linked with; others stay behind the one before them. */
  inLeftOrder(order, chosen) {
    const rank = new Int32Array(this.names[0].length).fill(-1);
    order.forEach((tensor, at) => (rank[tensor] = at));
    const keys = new Int32Array(this.names[1].length);
    const found = [];
    let last = -1;
    for (let tensor = 0; tensor < keys.length; tensor++) {
      if (!chosen[tensor]) continue;
      const ranks = this.others(1, tensor).map((other) => rank[other]).filter((one) => one >= 0);
      if (ranks.length) last = ranks.reduce((least, one) => Math.min(least, one));
      keys[tensor] = last;
      found.push(tensor);
    }
    return found.sort((a, b) => keys[a] - keys[b]);
  }
}

function each(end, tell) {
  if (typeof end === "number") tell(end);
  else end.forEach(tell);
}

/** Names from how much each shares with the one before, and the rest. */
function unfolded(folded) {
  const names = [];
  let last = "";
  for (let at = 0; at < folded.length; at += 2) names.push((last = last.slice(0, folded[at]) + folded[at + 1]));
  return names;
}
