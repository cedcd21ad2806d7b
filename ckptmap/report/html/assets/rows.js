// From two trees to two columns of rows in which what belongs together stands side by side.

/** Visible rows of a tree: nodes, the root left out. `rowOf[tensor]` is the row that shows a tensor. */
function visibleRows(root, open, rowOf) {
  const rows = [];
  const visit = (at, depth) => {
    at.depth = depth;
    const place = rows.push(at) - 1;
    for (const tensor of at.tensors) rowOf[tensor] = place;
    if (!at.children.length) return;
    if (open.has(at.key)) at.children.forEach((child) => visit(child, depth + 1));
    else for (const tensor of tensorsIn(at)) rowOf[tensor] = place;
  };
  root.children.forEach((child) => visit(child, 0));
  return rows;
}

/** Pairs of rows to be drawn level: those links that do not cross, as many as there can be. */
function levelPairs(edges) {
  const sorted = edges.slice().sort((a, b) => a.left - b.left || b.right - a.right);
  const tails = []; // tails[n]: the edge that ends the best chain of n + 1 links
  const before = new Int32Array(sorted.length);
  sorted.forEach((edge, at) => {
    let low = 0;
    let high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[tails[middle]].right < edge.right) low = middle + 1;
      else high = middle;
    }
    before[at] = low ? tails[low - 1] : -1;
    // Of two that end alike the upper one stays: what is made of several stands beside the first.
    if (low === tails.length || sorted[tails[low]].right > edge.right) tails[low] = at;
  });
  const chain = [];
  for (let at = tails.length ? tails[tails.length - 1] : -1; at >= 0; at = before[at]) chain.push(sorted[at]);
  return chain.reverse();
}

/** Give each row its place from the top, with gaps so that pairs are level; returns how many places there are. */
function place(left, right, pairs) {
  const sides = [left, right];
  const next = [0, 0];
  const top = [0, 0];
  const put = (side, upTo) => {
    while (next[side] < upTo) sides[side][next[side]++].row = top[side]++;
  };
  const headed = (side, row) => {
    // Headings directly above a row go with it, not above the gap.
    while (row > next[side] && sides[side][row - 1].children.length && sides[side][row - 1].depth < sides[side][row].depth) row--;
    return row;
  };
  for (const pair of pairs) {
    const rows = [pair.left, pair.right];
    const heads = rows.map((row, side) => headed(side, row));
    put(0, heads[0]);
    put(1, heads[1]);
    const level = Math.max(top[0] + rows[0] - heads[0], top[1] + rows[1] - heads[1]);
    [0, 1].forEach((side) => {
      top[side] = level - (rows[side] - heads[side]);
      put(side, rows[side] + 1);
    });
  }
  put(0, left.length);
  put(1, right.length);
  return Math.max(...top);
}

/** The first of the rows, sorted by place, that stands at `from` or below. */
function firstFrom(rows, from, place = "row") {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle][place] < from) low = middle + 1;
    else high = middle;
  }
  return low;
}
