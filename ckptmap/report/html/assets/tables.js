// What is no tree: facts, questions, rules, and what head classes would load.

function facts(page) {
  return make("dl", { class: "facts" }, ...page.facts.flatMap(([label, text]) => [make("dt", {}, label), make("dd", {}, make("bdi", {}, text))]));
}

function sectionTable(section) {
  const tone = { added: "right", removed: "left", changed: "change" }[section.tone] ?? "";
  return make(
    "div",
    { class: "section-table" },
    make("h4", { class: tone }, section.heading),
    make(
      "div",
      { class: "wide", tabindex: "0" },
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, ...section.columns.map((column) => make("th", { scope: "col" }, column)))),
        make("tbody", {}, ...section.rows.map((row) => make("tr", {}, ...row.map((cell, at) => make("td", { class: at ? null : "name" }, cell))))),
      ),
    ),
  );
}

/** The verdict table; each class opens to its details. */
function classes(page) {
  const search = make("input", { type: "search", id: "class-search", placeholder: "Search classes and tensors", "aria-label": "search classes and tensors" });
  const rows = page.classes.map(classRow);
  const none = make("p", { class: "nothing", role: "status" });
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      const text = (page.classes[at].search ??= JSON.stringify(page.classes[at]).toLowerCase());
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    });
    none.textContent = shown ? "" : "No class fits the search.";
  });
  const head = ["class and verdict", "backbone loaded", "head loaded", "new", "mismatched", "not used"];
  return panel(
    "classes",
    page.kind === "heads" ? "Head classes" : "What head classes would load",
    page.classes.length > 4 ? make("div", { class: "controls" }, search) : null,
    make("div", { class: "class-head", "aria-hidden": "true" }, ...head.map((text) => make("span", {}, text))),
    make("div", { class: "class-list" }, ...rows),
    none,
  );
}

function classRow(one, at, all) {
  const [, headTensors] = one.head;
  const several = new Set(all.map((other) => other.source)).size > 1;
  const cells = [
    make(
      "span",
      { class: "class-name" },
      make("b", {}, one.name),
      several ? make("small", {}, make("bdi", {}, ` from ${printable(one.source)}`)) : null,
      make("span", { class: `verdict ${one.tone}` }, symbol(one.symbol, one.tone), ` ${one.verdict}`),
    ),
    bar("backbone", one.backbone),
    headTensors ? bar("head", one.head) : make("span", { class: "none", "data-label": "head" }, "no head"),
    number("new", one.new),
    number("mismatched", one.mismatched),
    number("not used", one.not_used),
  ];
  return make(
    "details",
    { class: "class-row", open: all.length === 1 },
    make("summary", {}, ...cells),
    make(
      "div",
      { class: "class-details" },
      make("p", {}, `${one.verdict}: ${one.meaning}.`),
      ...one.sections.map(sectionTable),
      ...(one.sections.length ? [] : [make("p", { class: "none" }, "Nothing new, nothing mismatched, nothing left over.")]),
      ...one.notes.map((note) => make("p", { class: "note" }, ...sentence(note))),
    ),
  );
}

function number(label, count) {
  return make("span", { class: count ? "count" : "none", "data-label": label }, count ? count.toLocaleString("en") : "0");
}

function bar(label, [tensors, ofTensors, parameters, ofParameters]) {
  const share = ofParameters ? parameters / ofParameters : 0;
  const fill = make("i", {});
  fill.style.width = `${100 * share}%`;
  return make(
    "span",
    { class: "bar-cell", "data-label": label, title: `${parameters.toLocaleString("en")} of ${counted(ofParameters, "parameter")}` },
    `${tensors.toLocaleString("en")} of ${ofTensors.toLocaleString("en")}`,
    make("span", { class: "bar", "aria-hidden": "true" }, fill),
  );
}

/** What stays open, each with the tensors it is about. */
function questions(page, matching) {
  const shown = page.questions.slice(0, 200);
  return panel(
    "questions",
    `Undecided: ${counted(page.questions.length, "question")}`,
    make(
      "ol",
      { class: "questions" },
      ...shown.map((one) =>
        make(
          "li",
          {},
          make("p", {}, ...sentence(one.question)),
          make(
            "p",
            { class: "candidates" },
            ...[0, 1].flatMap((side) =>
              one.ends[side].map(([name, tensor]) =>
                make("button", { class: "chip", onclick: () => matching.reveal(side, tensor) }, `${side ? "right" : "left"}: ${name}`),
              ),
            ),
            one.more ? ` … and ${one.more} more` : null,
          ),
        ),
      ),
    ),
    page.questions.length > shown.length ? make("p", { class: "more" }, `… and ${page.questions.length - shown.length} more`) : null,
  );
}

function rulesPanel(page) {
  return panel(
    "rules",
    page.rules_title,
    make("div", { class: "actions" }, make("button", { id: "copy-file", onclick: (event) => copy(page.rules_text, event.target) }, "Copy the file")),
    lines("file", page.rules_text.trimEnd().split("\n")),
  );
}
