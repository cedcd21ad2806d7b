// Names as a tree: one node for each segment, equal layers and experts as one node `{0..11}`, lone children on one line.

/**
 * A node:
 *   parts     segments of the name that it adds: words, or {numbers} for layers taken together
 *   children  nodes
 *   tensors   numbers of the tensors that end here; several when layers are taken together
 *   count     tensors in it, all the way down
 */
function node(parts) {
  return { parts, children: NONE, tensors: NONE, count: 0, parent: null, key: "", row: -1, kind: -1, states: 0, depth: 0 };
}

const NONE = Object.freeze([]); // most nodes have no children, or no tensors: a list of their own would cost much
const FEW_WORDS = 8; // so many children are searched one by one

const NUMBER = /^(0|[1-9][0-9]{0,8})$/;

/**
 * Build a side's tree.
 * @param names   name of each tensor by its number
 * @param chosen  numbers of the tensors to show, in order
 * @param kinds   for each tensor what must be equal for layers to be taken together
 */
function buildTree(names, chosen, kinds, grouped) {
  const root = node([]);
  for (const tensor of chosen) {
    let at = root;
    for (const word of names[tensor].split(".")) at = childNamed(at, word);
    at.tensors = [...at.tensors, tensor];
  }
  const numbers = new Map();
  const intern = (text) => {
    let number = numbers.get(text);
    if (number === undefined) numbers.set(text, (number = numbers.size));
    return number;
  };
  finish(root, kinds, grouped, intern);
  root.children.forEach((child) => tighten(child));
  link(root, "");
  return root;
}

function childNamed(at, word) {
  const known = at.byWord ? at.byWord.get(word) : at.children.find((child) => child.parts[0] === word);
  if (known) return known;
  const made = node([word]);
  if (at.children === NONE) at.children = [made];
  else at.children.push(made);
  if (at.byWord) at.byWord.set(word, made);
  else if (at.children.length > FEW_WORDS) at.byWord = new Map(at.children.map((child) => [child.parts[0], child]));
  return made;
}

/** Order numbers, take equal siblings together, and give each node a number that equal nodes share. */
function finish(at, kinds, grouped, intern) {
  at.byWord = null;
  for (const child of at.children) finish(child, kinds, grouped, intern);
  const counted = at.children.length > 0 && at.children.every((child) => NUMBER.test(child.parts[0]));
  if (counted) {
    at.children.sort((a, b) => a.parts[0] - b.parts[0]);
    if (grouped) at.children = together(at.children);
  }
  const inside = at.children.map((child) => `${spelled(child.parts)}=${child.kind}`).join(",");
  at.kind = intern(`${at.tensors.map((tensor) => kinds[tensor])}|${inside}`);
}

/** Siblings that are numbers and equal within, as one node each. */
function together(children) {
  const alike = new Map();
  for (const child of children) {
    const others = alike.get(child.kind);
    if (others) others.push(child);
    else alike.set(child.kind, [child]);
  }
  if (alike.size === children.length) return children;
  return [...alike.values()].map((group) => {
    if (group.length === 1) return group[0];
    const made = merged(group);
    made.parts = [{ numbers: group.map((child) => +child.parts[0]) }];
    made.kind = group[0].kind;
    return made;
  });
}

function merged(group) {
  const made = node(group[0].parts);
  if (group[0].tensors.length) made.tensors = group.flatMap((one) => one.tensors);
  if (group[0].children.length) made.children = group[0].children.map((_, place) => merged(group.map((one) => one.children[place])));
  return made;
}

/** One line for a node and its only child. */
function tighten(at) {
  while (at.children.length === 1 && at.tensors.length === 0) {
    const child = at.children[0];
    at.parts = at.parts.concat(child.parts);
    at.tensors = child.tensors;
    at.children = child.children;
  }
  at.children.forEach(tighten);
}

function link(at, prefix) {
  at.count = at.tensors.length;
  for (const child of at.children) {
    child.parent = at;
    child.key = prefix ? `${prefix}.${spelled(child.parts)}` : spelled(child.parts);
    link(child, child.key);
    at.count += child.count;
  }
}

/** `0..3,7` */
function runs(numbers) {
  const found = [];
  for (const number of numbers) {
    const last = found[found.length - 1];
    if (last && last[1] === number - 1) last[1] = number;
    else found.push([number, number]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : to === from + 1 ? `${from},${to}` : `${from}..${to}`)).join(",");
}

function spelled(parts) {
  return parts.map((part) => (typeof part === "string" ? part : `{${runs(part.numbers)}}`)).join(".");
}

/** All tensors in a node. */
function tensorsIn(at, found = []) {
  for (const tensor of at.tensors) found.push(tensor);
  for (const child of at.children) tensorsIn(child, found);
  return found;
}

/** All segments of a node's name. */
function pathOf(at) {
  const parts = [];
  for (let one = at; one; one = one.parent) parts.unshift(...one.parts);
  return parts;
}

/** Whether any of these tensors is in a node. */
function holdsAny(at, tensors) {
  return at.tensors.some((tensor) => tensors.has(tensor)) || at.children.some((child) => holdsAny(child, tensors));
}

/** Segments with the dots between them, numbers of layers set apart. */
function labelled(parts) {
  return parts.flatMap((part, at) => [
    at ? "." : null,
    typeof part === "string" ? printable(part) : make("span", { class: "numbers" }, `{${runs(part.numbers)}}`),
  ]);
}
