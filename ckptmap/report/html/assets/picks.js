// From an undecided remap: pick what belongs together, and take the rules away as text.

// Names that can stand in a rule as they are; others a person has to write.
const PLAIN = /^[\p{L}\p{N}_\-/+@]+$/u;
const VARIABLES = "ijklmn";

class Picks {
  constructor(matching) {
    this.matching = matching;
    this.chosen = [[], []]; // nodes picked on each side
    this.rules = []; // texts
    matching.isPicked = (side, at) => this.chosen[side].includes(at);
    matching.onpick = (side, at) => this.toggle(side, at);
    this.ends = make("div", { class: "ends" });
    this.turned = make("input", { type: "checkbox", id: "turned", onchange: () => this.show() });
    this.preview = make("p", { class: "preview", role: "status", "aria-live": "polite" });
    this.pairUp = make("button", { class: "primary", id: "pair", onclick: () => this.pair() }, "Pair them");
    this.list = make("ul", { class: "picked-rules" });
    this.copies = make(
      "div",
      { class: "actions" },
      make("button", { id: "copy-pins", onclick: (event) => copy(this.pins(), event.target) }, "Copy as --pin flags"),
      make("button", { id: "copy-rules", onclick: (event) => copy(`${this.rules.join("\n")}\n`, event.target) }, "Copy as rules"),
    );
    this.element = panel(
      "picks",
      "Your pairs",
      make(
        "p",
        { class: "how" },
        "Select a tensor above and press ",
        make("kbd", {}, "P"),
        " or Pick, on both sides; then pair them. Pairs are only written down here: run the same command again with the flags.",
      ),
      this.ends,
      make("label", { class: "check turned", for: "turned" }, this.turned, " the right matrix is the transpose"),
      this.preview,
      make("div", { class: "actions" }, this.pairUp, make("button", { onclick: () => this.clear() }, "Clear")),
      this.list,
      this.copies,
    );
    this.show();
  }

  toggle(side, at) {
    const place = this.chosen[side].indexOf(at);
    if (place < 0) this.chosen[side].push(at);
    else this.chosen[side].splice(place, 1);
    this.show();
  }

  clear() {
    this.chosen = [[], []];
    this.turned.checked = false;
    this.show();
  }

  pair() {
    const { texts } = this.made();
    if (!texts) return;
    this.add(texts);
    this.clear();
  }

  add(texts) {
    for (const text of texts) if (!this.rules.includes(text)) this.rules.push(text);
    this.show();
  }

  pins() {
    return this.rules.map((rule) => `--pin '${rule.replaceAll("'", "'\\''")}'`).join(" \\\n  ");
  }

  show() {
    this.ends.replaceChildren(
      ...this.chosen.map((nodes, side) =>
        make(
          "p",
          {},
          make("b", {}, side ? "right " : "left "),
          ...(nodes.length
            ? nodes.map((at) => make("button", { class: "chip on", title: "put it back", onclick: () => this.toggle(side, at) }, spelled(pathOf(at)), " ×"))
            : [make("span", { class: "none" }, "nothing picked")]),
        ),
      ),
    );
    const { texts, problem } = this.made();
    const shapes = this.shapes();
    this.turned.parentElement.hidden = !(shapes && shapes[0].length === 1 && shapes[1].length === 1 && isSquare(shapes[0][0]) && same(shapes[0][0], shapes[1][0]));
    this.preview.replaceChildren(...(texts ? [make("code", {}, texts[0]), texts.length > 1 ? ` and ${texts.length - 1} more` : ""] : [problem ?? ""]));
    this.preview.classList.toggle("problem", Boolean(problem));
    this.pairUp.disabled = !texts;
    this.list.replaceChildren(
      ...this.rules.map((rule) =>
        make("li", {}, make("code", {}, rule), " ", make("button", { class: "quiet", "aria-label": `remove ${printable(rule)}`, onclick: () => this.remove(rule) }, "×")),
      ),
    );
    this.copies.hidden = !this.rules.length;
    this.matching.later();
  }

  remove(rule) {
    this.rules = this.rules.filter((one) => one !== rule);
    this.show();
  }

  shapes() {
    if (this.chosen.some((nodes) => !nodes.length)) return null;
    return this.chosen.map((nodes, side) => nodes.map((at) => this.matching.links.kind(side, at.tensors[0]).shape));
  }

  /** The rules that say what is picked: {texts}, or {problem}. */
  made() {
    const shapes = this.shapes();
    if (!shapes) return {};
    const form = shapesOfRule(shapes[0], shapes[1], this.turned.checked);
    if (form === null) return { problem: "These shapes do not make one another by a copy, a transpose or laying end to end: write this rule by hand." };
    const named = this.pattern() ?? this.oneByOne();
    if (typeof named === "string") return { problem: named };
    return { texts: named.map((sides) => `${sides.map((names) => names.join(", ")).join(" <-> ")}${form}`) };
  }

  /** One rule with `{i}` where layers are taken together, if it is about just these tensors. */
  pattern() {
    const nodes = this.chosen.flat();
    const numbers = nodes.map((at) => pathOf(at).filter((part) => typeof part !== "string").map((part) => part.numbers.join()));
    if (!numbers[0].length || numbers.some((one) => one.join(";") !== numbers[0].join(";"))) return null;
    if (nodes.some((at) => pathOf(at).some((part) => typeof part === "string" && !isPlain(part)))) return null;
    const exact = this.chosen.every((ends, side) => ends.every((at) => this.matchesOnly(side, at)));
    if (!exact) return null;
    return [this.chosen.map((ends) => ends.map((at) => written(pathOf(at))))];
  }

  matchesOnly(side, at) {
    const like = pathOf(at).map((part) => (typeof part === "string" ? part.replace(/[-/+@]/g, "\\$&") : "(?:0|[1-9][0-9]*)"));
    const name = new RegExp(`^${like.join("\\.")}$`);
    return this.matching.links.names[side].reduce((count, one) => count + name.test(one), 0) === at.tensors.length;
  }

  oneByOne() {
    const counts = this.chosen.flat().map((at) => at.tensors.length);
    if (counts.some((count) => count !== counts[0])) return "One side stands for more layers than the other: pick single layers (Layers: each).";
    const sets = Array.from({ length: counts[0] }, (_, place) =>
      this.chosen.map((ends, side) => ends.map((at) => this.matching.links.names[side][at.tensors[place]].split("."))),
    );
    if (sets.flat(2).some((parts) => !parts.every(isPlain))) return "A name has characters that a rule cannot say as they are: write this rule by hand.";
    return sets.map((sides) => sides.map((names) => names.map(written)));
  }
}

function isPlain(part) {
  return PLAIN.test(part);
}

/** A name as rules write it: `{i}` for numbers taken together; `0` and `_` alone mean something else there. */
function written(parts) {
  let variable = 0;
  const name = parts.map((part) => (typeof part === "string" ? part : `{${VARIABLES[variable++]}}`)).join(".");
  return name === "0" || name === "_" ? `{n:${name}}` : name;
}

function same(one, other) {
  return one.length === other.length && one.every((size, at) => size === other[at]);
}

function isSquare(shape) {
  return shape.length === 2 && shape[0] === shape[1];
}

/** The part of a rule after its names: empty for copies; null where no simple rule says it. */
function shapesOfRule(left, right, turned) {
  if (left.length === 1 && right.length === 1) {
    const [one, other] = [left[0], right[0]];
    if (same(one, other)) return turned && isSquare(one) ? " : a b <-> b a" : "";
    return one.length === 2 && same(one, other.slice().reverse()) ? " : a b <-> b a" : null;
  }
  if (left.length > 1 && right.length > 1) return null;
  const parts = left.length > 1 ? left : right;
  const whole = (left.length > 1 ? right : left)[0];
  const rest = whole.slice(1);
  const fits = parts.every((shape) => shape.length === whole.length && same(shape.slice(1), rest));
  if (!fits || rest.length > 1 || !whole.length || parts.reduce((sum, shape) => sum + shape[0], 0) !== whole[0]) return null;
  const behind = rest.length ? " m" : "";
  const equal = parts.every((shape) => shape[0] === parts[0][0]);
  const axes = parts.map((_, at) => (equal ? "o" : "abcdefgh"[at]));
  if (axes.includes(undefined)) return null;
  const apart = equal ? `o${behind}` : axes.map((axis) => axis + behind).join(", ");
  const joined = `[${axes.join(" + ")}]${behind}`;
  return left.length > 1 ? ` : ${apart} <-> ${joined}` : ` : ${joined} <-> ${apart}`;
}
