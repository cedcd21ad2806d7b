// Both trees side by side, with what links them drawn between; only the rows in sight exist.

const ROOM = 12; // rows kept above and below what is in sight
const FEW = 120; // rows that a tree opens by itself
const NEAR = 200; // rows between the ends of most links, at most; only the others are looked at one by one
const FEW_FOUND = 600; // and when something was searched

class Matching {
  constructor(data, onselect) {
    this.data = data;
    this.onselect = onselect;
    this.links = new Links(data);
    this.hidden = new Set();
    this.query = "";
    this.grouped = true;
    this.choices = [new Map(), new Map()]; // what a person opened or closed, by key
    this.selected = null; // {side, node}
    this.build();
    this.refresh();
  }

  build() {
    const pane = (side, label) =>
      make("div", {
        class: `tree ${side ? "right" : "left"}`,
        role: "tree",
        tabindex: "0",
        id: `tree-${side}`,
        "aria-label": `${side ? "right" : "left"}: ${printable(label)}`,
        onkeydown: (event) => this.onkey(event, side),
        onclick: (event) => this.onclick(event, side),
        onfocus: () => this.selected?.side !== side && this.selectRow(side, this.firstInSight(side), false),
      });
    this.panes = this.data.sides.map((side, at) => pane(at, side.label));
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.sizer = make("div", { class: "sizer" }, this.panes[0], make("div", { class: "gutter" }, this.canvas), this.panes[1]);
    this.scroller = make("div", { class: "scroller", tabindex: "-1" }, this.sizer);
    // A canvas knows no custom properties: what a colour comes to in this theme is read off these.
    this.swatches = this.data.states.map((state) => make("span", { class: state.tone, hidden: true }));
    this.nothing = make("p", { class: "nothing", role: "status" });
    this.element = make(
      "div",
      { class: "matching" },
      make(
        "div",
        { class: "heads" },
        ...this.data.sides.map((side, at) =>
          make(
            "div",
            { class: "side-head", title: printable(side.label) },
            make("b", {}, at ? "right" : "left"),
            side.label === (at ? "right" : "left") ? null : make("bdi", {}, side.label),
            make("small", {}, counted(side.names.length, "tensor")),
          ),
        ),
      ),
      this.nothing,
      this.scroller,
      ...this.swatches,
    );
    this.shown = [new Map(), new Map()];
    this.scroller.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(this.scroller);
  }

  /** Draw with the next frame, once. */
  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  /** Find what is to be shown after the search, a filter or the grouping has changed. */
  refresh() {
    const { names, kinds } = this.links;
    this.chosen = this.links.chosen(this.query, this.hidden);
    const left = [...names[0].keys()].filter((tensor) => this.chosen[0][tensor]);
    const tree = (side, tensors) => {
      const root = buildTree(names[side], tensors, kinds[side], this.grouped);
      this.mark(root, side);
      return root;
    };
    const first = tree(0, left);
    this.roots = [first, tree(1, this.links.inLeftOrder(tensorsIn(first), this.chosen[1]))];
    this.selected = null;
    this.onselect(null);
    this.scroller.scrollTop = 0;
    this.layout();
  }

  /** The states of all that a node holds. */
  mark(at, side) {
    at.states = 0;
    for (const tensor of at.tensors) at.states |= this.links.states[side][tensor];
    for (const child of at.children) at.states |= this.mark(child, side);
    return at.states;
  }

  /** Rows, links between rows, and where they stand. */
  layout() {
    this.rowOf = this.links.names.map((names) => new Int32Array(names.length).fill(-1));
    this.rows = this.roots.map((root, side) => visibleRows(root, this.open(root, side), this.rowOf[side]));
    const edges = new Map();
    const { state, left, right } = this.data.links;
    const add = (from, to, kind) => {
      if (from < 0 || to < 0) return;
      const key = (from * this.rows[1].length + to) * 32 + kind;
      const edge = edges.get(key);
      if (edge) edge.count++;
      else edges.set(key, { left: from, right: to, state: kind, count: 1 });
    };
    for (let link = 0; link < state.length; link++) {
      each(left[link], (one) => each(right[link], (other) => add(this.rowOf[0][one], this.rowOf[1][other], state[link])));
    }
    this.edges = [...edges.values()];
    this.height = place(this.rows[0], this.rows[1], levelPairs(this.edges));
    this.near = [];
    this.far = [];
    for (const edge of this.edges) {
      const ends = [this.rows[0][edge.left].row, this.rows[1][edge.right].row];
      [edge.top, edge.bottom] = ends[0] < ends[1] ? ends : ends.reverse();
      (edge.bottom - edge.top > NEAR ? this.far : this.near).push(edge);
    }
    this.near.sort((a, b) => a.top - b.top);
    this.shown.forEach((shown) => {
      shown.forEach((row) => row.remove());
      shown.clear();
    });
    const empty = !this.rows[0].length && !this.rows[1].length;
    this.nothing.textContent = empty ? "Nothing here: no tensor fits the search and the states chosen." : "";
    this.element.classList.toggle("empty", empty);
    if (this.step) this.fit();
    this.draw();
  }

  /** Keys of nodes that are open: what a person chose, and few rows by default, upper levels first. */
  open(root, side) {
    const open = new Set();
    let room = (this.query ? FEW_FOUND : FEW) - root.children.length;
    const queue = [...root.children];
    for (let at = 0; at < queue.length; at++) {
      const one = queue[at];
      if (!one.children.length) continue;
      const choice = this.choices[side].get(one.key);
      if (choice === false || (choice === undefined && one.children.length > room)) continue;
      if (choice === undefined) room -= one.children.length;
      open.add(one.key);
      queue.push(...one.children);
    }
    return open;
  }

  /** Sizes and colours, which only a new window size or theme changes; asking for them in each frame would be slow. */
  measure() {
    this.step = parseFloat(getComputedStyle(this.element).getPropertyValue("--row"));
    this.fit();
    this.wide = this.canvas.parentElement.clientWidth;
    this.tall = this.scroller.clientHeight;
    this.colours = this.swatches.map((one) => getComputedStyle(one).color);
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.wide * scale);
    this.canvas.height = Math.round(this.tall * scale);
    this.canvas.style.height = `${this.tall}px`;
    this.later();
  }

  /** Make room for all rows, and show no more of it than there is. */
  fit() {
    const total = this.height * this.step;
    this.sizer.style.height = `${total}px`;
    this.scroller.style.height = `min(72vh, ${Math.max(total, 5 * this.step)}px)`;
  }

  draw() {
    if (!this.step) return; // not on the page yet
    const from = Math.floor(this.scroller.scrollTop / this.step) - ROOM;
    const to = Math.ceil((this.scroller.scrollTop + this.tall) / this.step) + ROOM;
    this.touched = this.touchedRows();
    this.rows.forEach((rows, side) => this.drawRows(rows, side, from, to));
    this.drawLinks(from, to);
  }

  drawRows(rows, side, from, to) {
    const shown = this.shown[side];
    for (const [place, row] of shown) {
      if (rows[place].row < from || rows[place].row > to) {
        row.remove();
        shown.delete(place);
      }
    }
    for (let place = firstFrom(rows, from); place < rows.length && rows[place].row <= to; place++) {
      let row = shown.get(place);
      if (!row) {
        row = this.rowElement(rows[place], side, place);
        shown.set(place, row);
        this.panes[side].append(row);
      }
      row.style.transform = `translateY(${rows[place].row * this.step}px)`;
      const selected = this.selected?.side === side && this.selected.node === rows[place];
      row.classList.toggle("selected", selected);
      row.setAttribute("aria-selected", selected);
      row.classList.toggle("touched", this.touched[side].has(place));
      row.classList.toggle("picked", Boolean(this.isPicked?.(side, rows[place])));
    }
  }

  rowElement(at, side, place) {
    const leaf = !at.children.length;
    const isOpen = !leaf && this.rows[side][place + 1]?.parent === at;
    const kind = at.tensors.length ? this.links.kind(side, at.tensors[0]).text : "";
    const marks = this.data.states.filter((_, state) => at.states & (1 << state));
    const size = at.count > 1 ? (leaf ? `×${at.count.toLocaleString("en")}` : at.count.toLocaleString("en")) : "";
    const label = make("span", { class: "label" }, ...labelled(at.parts));
    const said = [printable(spelled(at.parts)), kind, at.count > 1 ? counted(at.count, "tensor") : "", ...marks.map((one) => one.label)];
    const row = make(
      "div",
      {
        class: `row ${leaf ? "leaf" : "branch"}`,
        role: "treeitem",
        id: `row-${side}-${place}`,
        title: printable(spelled(pathOf(at))),
        "aria-level": at.depth + 1,
        "aria-expanded": leaf ? null : String(isOpen),
        "aria-label": said.filter(Boolean).join(", "),
      },
      make("span", { class: "twisty", "aria-hidden": "true" }, leaf ? "" : isOpen ? "▾" : "▸"),
      label,
      make("span", { class: "kind" }, kind),
      make("span", { class: "size" }, size),
      make("span", { class: "marks" }, ...(isOpen ? [] : marks.slice(0, 2).map((one) => symbol(one.symbol, one.tone)))),
    );
    row.style.setProperty("--depth", at.depth);
    return row;
  }

  /** Rows that are the selected one, are in it, or are linked with it. */
  touchedRows() {
    const touched = [new Set(), new Set()];
    if (!this.selected) return touched;
    const { side, node: at } = this.selected;
    const start = this.rows[side].indexOf(at);
    let end = start + 1;
    while (end < this.rows[side].length && this.rows[side][end].depth > at.depth) end++;
    for (const edge of this.edges) {
      const own = side ? edge.right : edge.left;
      edge.touched = own >= start && own < end;
      if (edge.touched) touched[1 - side].add(side ? edge.left : edge.right);
    }
    return touched;
  }

  drawLinks(from, to) {
    const pen = this.canvas.getContext("2d");
    const scale = window.devicePixelRatio || 1;
    const top = this.scroller.scrollTop;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, this.wide, this.tall);
    pen.translate(0, -top);
    const inSight = this.far.filter((edge) => edge.bottom >= from && edge.top <= to);
    for (let at = firstFrom(this.near, from - NEAR, "top"); at < this.near.length && this.near[at].top <= to; at++) {
      if (this.near[at].bottom >= from) inSight.push(this.near[at]);
    }
    const strong = (edge) => Boolean(this.selected && edge.touched);
    inSight.sort((a, b) => strong(a) - strong(b));
    for (const edge of inSight) this.drawLink(pen, edge);
  }

  drawLink(pen, edge) {
    const [a, b] = [this.rows[0][edge.left], this.rows[1][edge.right]].map((at) => (at.row + 0.5) * this.step);
    const width = this.wide;
    const { tone } = this.data.states[edge.state];
    const strong = this.selected && edge.touched;
    pen.globalAlpha = this.selected && !strong ? 0.28 : tone === "quiet" ? 0.6 : 1;
    pen.strokeStyle = this.colours[edge.state];
    pen.lineWidth = (edge.count > 1 ? 2 : 1.25) + (strong ? 1.25 : 0);
    pen.setLineDash({ doubt: [6, 4], open: [2, 4], change: [10, 3] }[tone] ?? []);
    pen.beginPath();
    pen.moveTo(0, a);
    pen.bezierCurveTo(width / 2, a, width / 2, b, width, b);
    pen.stroke();
  }

  firstInSight(side) {
    return Math.max(0, firstFrom(this.rows[side], Math.ceil(this.scroller.scrollTop / this.step)));
  }

  selectRow(side, place, reveal = true) {
    const at = this.rows[side][place];
    if (!at) return;
    this.selected = { side, node: at };
    this.panes[1 - side].removeAttribute("aria-activedescendant");
    if (reveal) {
      const top = at.row * this.step;
      const { scrollTop, clientHeight } = this.scroller;
      if (top < scrollTop + this.step) this.scroller.scrollTop = top - this.step;
      else if (top + 2 * this.step > scrollTop + clientHeight) this.scroller.scrollTop = top + 2 * this.step - clientHeight;
    }
    this.draw();
    this.panes[side].setAttribute("aria-activedescendant", `row-${side}-${place}`);
    this.onselect(this.selected);
  }

  /** Open or close a node, and what it is linked with on the other side along with it. */
  toggle(side, at, open) {
    this.choices[side].set(at.key, open);
    const mate = this.mate(side, at);
    if (mate) this.choices[1 - side].set(mate.key, open);
    const before = at.row;
    this.layout();
    this.scroller.scrollTop += (at.row - before) * this.step;
    this.selectRow(side, this.rows[side].indexOf(at));
  }

  /** The node of the other side that holds what this one is linked with, and nothing else that is linked. */
  mate(side, at) {
    const own = new Set(tensorsIn(at));
    const others = new Set([...own].flatMap((tensor) => this.links.others(side, tensor)));
    if (!others.size) return null;
    let mate = this.roots[1 - side];
    for (;;) {
      const inside = mate.children.find((child) => holdsAny(child, others));
      if (!inside || mate.children.some((child) => child !== inside && holdsAny(child, others))) break;
      mate = inside;
    }
    if (mate === this.roots[1 - side]) return null;
    const foreign = tensorsIn(mate).some((other) => this.links.others(1 - side, other).some((tensor) => !own.has(tensor)));
    return foreign ? null : mate;
  }

  /** Bring a tensor into sight, opened up to it, and select it. */
  reveal(side, tensor) {
    if (!this.chosen[side][tensor]) this.onhidden();
    const find = (at) => (at.tensors.includes(tensor) ? at : at.children.map(find).find(Boolean));
    const leaf = find(this.roots[side]);
    for (let one = leaf.parent; one?.parent; one = one.parent) this.choices[side].set(one.key, true);
    this.layout();
    this.scroller.scrollTop = (leaf.row + 0.5) * this.step - this.scroller.clientHeight / 2;
    this.selectRow(side, this.rows[side].indexOf(leaf), false);
    this.panes[side].focus({ preventScroll: true });
  }

  openAll(open) {
    this.roots.forEach((root, side) => {
      this.choices[side].clear();
      const visit = (at) => {
        if (at.children.length && at !== root) this.choices[side].set(at.key, open);
        at.children.forEach(visit);
      };
      visit(root);
    });
    this.selected = null;
    this.onselect(null);
    this.layout();
  }

  onclick(event, side) {
    const row = event.target.closest(".row");
    if (!row) return;
    const place = Number(row.id.split("-")[2]);
    const at = this.rows[side][place];
    if (at.children.length) this.toggle(side, at, this.rows[side][place + 1]?.parent !== at);
    else this.selectRow(side, place, false);
  }

  onkey(event, side) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = this.rows[side];
    const here = this.selected?.side === side ? rows.indexOf(this.selected.node) : -1;
    const at = rows[here];
    const isOpen = at?.children.length && rows[here + 1]?.parent === at;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.step) - 2);
    const moves = {
      ArrowDown: () => this.selectRow(side, Math.min(rows.length - 1, here + 1)),
      ArrowUp: () => this.selectRow(side, Math.max(0, here - 1)),
      PageDown: () => this.selectRow(side, Math.min(rows.length - 1, here + page)),
      PageUp: () => this.selectRow(side, Math.max(0, here - page)),
      Home: () => this.selectRow(side, 0),
      End: () => this.selectRow(side, rows.length - 1),
      ArrowRight: () => at && (isOpen ? this.selectRow(side, here + 1) : at.children.length && this.toggle(side, at, true)),
      ArrowLeft: () => at && (isOpen ? this.toggle(side, at, false) : at.parent?.parent && this.selectRow(side, rows.indexOf(at.parent))),
      Enter: () => at && (at.children.length ? this.toggle(side, at, !isOpen) : this.cross(side, at)),
      " ": () => at?.children.length && this.toggle(side, at, !isOpen),
      p: () => at && !at.children.length && this.onpick?.(side, at),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  /** Go to what a tensor is linked with. */
  cross(side, at) {
    const [other] = this.links.others(side, at.tensors[0]);
    if (other !== undefined) this.reveal(1 - side, other);
  }
}
