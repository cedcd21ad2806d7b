// Layer × module: how far values moved, darker for more.

function heat(data, number) {
  const largest = data.cells.flat().reduce((most, cell) => (typeof cell === "number" ? Math.max(most, cell) : most), 0);
  const line = make("p", { class: "heat-told", role: "status", "aria-live": "polite" }, data.note);
  const rows = data.cells.map((cells, row) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, data.rows[row]),
      ...cells.map((cell, column) => {
        const place = `${data.rows[row]}, ${data.columns[column]}`;
        const text = cell === null ? "·" : typeof cell === "number" ? short(cell) : cell;
        const told = cell === null ? "no such tensor" : typeof cell === "number" ? `${data.unit} ${cell.toPrecision(4)}` : cell;
        const box = make(
          "td",
          {
            tabindex: row || column ? "-1" : "0",
            class: cell === null ? "nothing-there" : "",
            title: printable(`${place}: ${told}`),
            onfocus: () => (line.textContent = printable(`${place}: ${told}`)),
            onclick: (event) => event.target.focus(),
          },
          text,
        );
        const share = typeof cell === "number" && largest ? cell / largest : 0;
        box.style.setProperty("--heat", `${Math.round(100 * Math.sqrt(share))}%`);
        if (share > 0.3) box.classList.add("warm");
        if (share > 0.49) box.classList.add("hot");
        return box;
      }),
    ),
  );
  const table = make(
    "table",
    { class: "heat", onkeydown: (event) => walk(event, rows) },
    make("thead", {}, make("tr", {}, make("td", {}), ...data.columns.map((column) => make("th", { scope: "col" }, column)))),
    make("tbody", {}, ...rows),
  );
  return panel(`heat-${number}`, data.title, line, make("div", { class: "wide" }, table));
}

function short(value) {
  if (value === 0) return "0";
  return value >= 0.001 && value < 1000 ? String(Number(value.toPrecision(2))) : value.toExponential(0).replace("e+", "e");
}

function walk(event, rows) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const box = event.target.closest("td");
  if (!step || !box) return;
  event.preventDefault();
  const row = rows.indexOf(box.parentElement) + step[0];
  const next = rows[row]?.querySelectorAll("td")[box.cellIndex - 1 + step[1]];
  if (!next) return;
  box.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
