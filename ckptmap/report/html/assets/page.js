// Puts the page together.

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const button = make("button", { id: "theme", class: "quiet", onclick: () => {
    root.dataset.theme = dark() ? "light" : "dark";
    label();
    window.dispatchEvent(new Event("themechange"));
  } });
  const label = () => {
    button.textContent = dark() ? "☀ Light" : "☾ Dark";
  };
  label();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    label();
    window.dispatchEvent(new Event("themechange"));
  });
  return button;
}

/** States with their counts; each is a switch. */
function legend(matching) {
  return make(
    "div",
    { class: "legend", role: "group", "aria-label": "show" },
    ...matching.data.states.map((state, at) => {
      if (!matching.links.counts[at]) return null;
      const chip = make(
        "button",
        { class: "chip", "aria-pressed": "true", title: state.meaning, onclick: () => {
          const hide = chip.getAttribute("aria-pressed") === "true";
          chip.setAttribute("aria-pressed", String(!hide));
          matching.hidden[hide ? "add" : "delete"](at);
          matching.refresh();
        } },
        symbol(state.symbol, state.tone),
        ` ${state.label} `,
        make("b", {}, matching.links.counts[at].toLocaleString("en")),
      );
      return chip;
    }),
  );
}

function matchingPanel(page) {
  let picks = null;
  let show = () => {};
  const matching = new Matching(page.matching, (selected) => show(selected));
  if (page.pickable) picks = new Picks(matching);
  const actions = (side, at) => {
    if (!picks || at.children.length) return [];
    const [link] = matching.links.of(side, at.tensors[0]);
    const rule = page.rules[page.matching.links.rule[link]];
    const confirm = rule?.pins && make("button", { class: "primary", onclick: () => picks.add(rule.pins) }, "Confirm this guess");
    return [make("button", { class: "pick", onclick: () => picks.toggle(side, at) }, "Pick"), ...(confirm ? [confirm] : [])];
  };
  const about = details(matching, page, actions);
  show = about.show;
  show(null);
  let timer = 0;
  const search = make("input", { type: "search", id: "search", placeholder: "Search names", "aria-label": "search names of both sides", oninput: () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      matching.query = search.value;
      matching.refresh();
    }, 120);
  } });
  const grouped = make("input", { type: "checkbox", id: "grouped", checked: true, onchange: () => {
    matching.grouped = grouped.checked;
    matching.refresh();
  } });
  const states = legend(matching);
  matching.onhidden = () => {
    search.value = matching.query = "";
    matching.hidden.clear();
    states.querySelectorAll("button").forEach((chip) => chip.setAttribute("aria-pressed", "true"));
    matching.refresh();
  };
  const controls = make(
    "div",
    { class: "controls" },
    search,
    states,
    make("label", { class: "check", for: "grouped" }, grouped, " take equal layers together"),
    make("span", { class: "spacer" }),
    make("button", { id: "expand", onclick: () => matching.openAll(true) }, "Open all"),
    make("button", { id: "collapse", onclick: () => matching.openAll(false) }, "Close all"),
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, textarea")) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      matching.query = "";
      matching.refresh();
    }
  });
  window.addEventListener("themechange", () => matching.measure());
  return { matching, picks, element: panel("tensors", "Tensors", controls, make("div", { class: "beside" }, matching.element, about.box)) };
}

function main() {
  const page = JSON.parse(document.getElementById("data").textContent);
  document.title = printable(`ckptmap ${page.kind}: ${page.title}`);
  const two = page.matching ? matchingPanel(page) : null;
  const mark = { good: "✓", change: "≠", doubt: "?", left: "✗", open: "○" }[page.tone] ?? "·";
  document.getElementById("page").replaceChildren(
    make("header", {}, make("p", { class: "brand" }, make("b", {}, "ckptmap"), ` ${page.kind}`), themeButton()),
    make(
      "main",
      {},
      make("h1", { class: page.tone }, symbol(mark, page.tone), make("span", {}, ...sentence(page.headline))),
      ...page.sentences.map((text) => make("p", { class: "said" }, ...sentence(text))),
      facts(page),
      ...(page.heat ?? []).map(heat),
      page.questions?.length ? questions(page, two.matching) : null,
      two?.element,
      two?.picks?.element,
      page.classes?.length ? classes(page) : null,
      ...(page.sections ?? []).map((section) => make("section", { class: "panel" }, sectionTable(section))),
      page.rules_text ? rulesPanel(page) : null,
    ),
  );
  two?.matching.measure();
  document.documentElement.dataset.ready = "true";
}

main();
