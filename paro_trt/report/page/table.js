// Every head as a row: sortable, filtered, with a bar behind each figure.

const ROWS_AT_FIRST = 30;
let allRows = false;

const COLUMNS = [
  { key: "place", title: "Layer", value: (head) => head.layer * 1e6 + head.head },
  { key: "head", title: "Head", value: (head) => head.head },
  { key: "order", title: "Order", value: (head) => orderName(head) },
  { key: "density", title: "Density", figure: true },
  { key: "mass", title: "Attention mass kept", figure: true },
  { key: "error", title: "Predicted error", figure: true },
  { key: "bits", title: "QK / PV bits", value: (head) => data.layers[head.layer].bits },
];

function valueOf(head, column) {
  return column.figure ? figureOf(head, column.key, state.bin) : column.value(head);
}

function sortedHeads() {
  const column = COLUMNS.find((item) => item.key === state.sort.by);
  const sign = state.sort.descending ? -1 : 1;
  const shown = heads.filter(passes).map((head) => [valueOf(head, column), head]);
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return shown.sort((a, b) => sign * compare(a[0], b[0])).map(([, head]) => head);
}

function buildTable() {
  const table = byId("head-table");
  const titles = COLUMNS.map((column) => {
    const button = element("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => sortBy(column));
    return element("th", { scope: "col", dataset: { column: column.key } }, button);
  });
  table.tHead.append(element("tr", {}, ...titles));
  byId("show-all").addEventListener("click", () => {
    allRows = true;
    change();
  });
  onChange(() => paintTable(table));
}

function sortBy(column) {
  const again = state.sort.by === column.key;
  // Figures are asked for from the top.
  change({ sort: { by: column.key, descending: again ? !state.sort.descending : !!column.figure } });
}

function paintTable(table) {
  for (const title of table.tHead.rows[0].cells) {
    const direction = state.sort.descending ? "descending" : "ascending";
    title.setAttribute("aria-sort", title.dataset.column === state.sort.by ? direction : "none");
  }
  const sorted = sortedHeads();
  const shown = allRows ? sorted : sorted.slice(0, ROWS_AT_FIRST);
  table.tBodies[0].replaceChildren(...shown.map(rowOf));
  const more = byId("show-all");
  more.hidden = shown.length === sorted.length;
  more.textContent = `Show all ${sorted.length} heads`;
}

function rowOf(head) {
  const row = element("tr", { className: head === state.selected ? "chosen" : "" });
  row.append(
    element("th", { scope: "row" }, element("bdi", {}, layerName(head))),
    element("td", {}, String(head.head)),
    element("td", {}, swatch(orderColour(head.order)), " ", element("bdi", {}, orderName(head))),
    ...["density", "mass", "error"].map((kind) => figureCell(kind, head)),
    element("td", {}, data.layers[head.layer].bits.replace("/", " / ")),
  );
  row.addEventListener("click", () => change({ selected: head }));
  return row;
}

function figureCell(kind, head) {
  const value = figureOf(head, kind, state.bin);
  const bar = element("i");
  bar.style.width = `${100 * Math.min(kind === "error" ? shareOfDomain(kind, value) : value, 1)}%`;
  bar.style.background = css(rampColour(kind, 0.62));
  return element("td", {}, element("span", { className: "measure" }, bar), percent(value));
}
