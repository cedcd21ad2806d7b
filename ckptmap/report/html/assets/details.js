// What is known of the selected row.

function details(matching, page, actions) {
  const box = make("aside", { class: "details", "aria-live": "polite", "aria-label": "details" });
  const show = (selected) => {
    box.replaceChildren(...(selected ? told(matching, page, selected, actions) : [hint(matching)]));
  };
  return { box, show };
}

function hint(matching) {
  return make(
    "div",
    { class: "hint" },
    make("p", {}, "Select a row to see what it is and what it is linked with."),
    make(
      "p",
      { class: "keys" },
      ...["↑ ↓", " move  ", "← →", " close, open  ", "Enter", " other side  ", "Tab", " other tree  ", "/", " search"].map((text, at) =>
        at % 2 ? text : make("kbd", {}, text),
      ),
    ),
  );
}

function told(matching, page, { side, node: at }, actions) {
  const full = spelled(pathOf(at));
  const parts = [
    make("p", { class: "where" }, side ? "right" : "left", at.count > 1 ? ` · ${counted(at.count, "tensor")}` : ""),
    make("h3", { class: "name" }, ...labelled(pathOf(at))),
  ];
  if (at.children.length) {
    const tally = tallied(matching, side, at);
    parts.push(
      make("ul", { class: "tally" }, ...tally.map(([state, count]) => make("li", {}, symbol(state.symbol, state.tone), ` ${state.label}: ${count.toLocaleString("en")}`))),
    );
  } else {
    parts.push(make("p", { class: "kind" }, matching.links.kind(side, at.tensors[0]).text));
    for (const link of matching.links.of(side, at.tensors[0])) parts.push(...linkTold(matching, page, side, at, link));
    if (at.tensors.length > 1) parts.push(namesIn(matching, side, at));
  }
  parts.push(make("div", { class: "actions" }, make("button", { onclick: (event) => copy(full, event.target) }, "Copy name"), ...actions(side, at)));
  return parts;
}

function tallied(matching, side, at) {
  const counts = new Map();
  for (const tensor of tensorsIn(at)) {
    for (const link of matching.links.of(side, tensor)) {
      const state = matching.links.stateOf(link);
      counts.set(state, (counts.get(state) ?? 0) + 1);
    }
  }
  return [...counts];
}

function linkTold(matching, page, side, at, link) {
  const { data } = matching;
  const state = matching.links.stateOf(link);
  const others = matching.links.ends(1 - side, link);
  const beside = matching.links.ends(side, link).filter((tensor) => !at.tensors.includes(tensor));
  const text = data.texts[data.links.text[link]];
  const rule = page.rules?.[data.links.rule[link]];
  const parts = [make("p", { class: "state" }, symbol(state.symbol, state.tone), make("b", {}, ` ${state.label}`), `: ${state.meaning}`)];
  if (text) parts.push(make("p", { class: "why" }, ...sentence(text)));
  if (others.length) {
    const more = at.tensors.length > 1 ? ", for example" : "";
    parts.push(make("p", { class: "label-line" }, `${side ? "left" : "right"}${more}`));
    parts.push(make("ul", { class: "others" }, ...others.slice(0, 12).map((other) => otherLine(matching, 1 - side, other))));
  }
  if (others.length > 12) parts.push(make("p", { class: "more" }, `… and ${counted(others.length - 12, "more tensor")}`));
  if (beside.length) {
    parts.push(make("p", { class: "label-line" }, "together with"));
    parts.push(make("ul", { class: "others" }, ...beside.slice(0, 12).map((other) => otherLine(matching, side, other))));
  }
  if (rule) parts.push(make("p", { class: "label-line" }, `rule, line ${rule.line}`), lines("rule", [rule.text]));
  return parts;
}

function otherLine(matching, side, tensor) {
  return make(
    "li",
    {},
    make("button", { class: "link", onclick: () => matching.reveal(side, tensor) }, matching.links.names[side][tensor]),
    make("span", { class: "kind" }, ` ${matching.links.kind(side, tensor).text}`),
  );
}

function namesIn(matching, side, at) {
  const names = at.tensors.slice(0, 200).map((tensor) => matching.links.names[side][tensor]);
  const rest = at.tensors.length - names.length;
  return make(
    "details",
    {},
    make("summary", {}, `all ${at.tensors.length.toLocaleString("en")} names`),
    lines("names", rest > 0 ? [...names, `… ${rest.toLocaleString("en")} more`] : names),
  );
}
