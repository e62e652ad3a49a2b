// Layer x head tables, coloured: order, density, mass, predicted error.

const MANY_HEADS = 12; // from here on cells have no room for figures
const letterOf = (order) => (order < 26 ? String.fromCharCode(65 + order) : "·");

const HEAT_TITLES = {
  order: "Order",
  density: "Density",
  mass: "Attention mass kept",
  error: "Predicted error",
};

function buildHeat() {
  const columns = Math.max(...data.layers.map((layer) => layer.order.length));
  const box = byId("heat");
  box.classList.toggle("wide", columns > MANY_HEADS);
  for (const kind of Object.keys(HEAT_TITLES)) box.append(heatPanel(kind, columns));
}

function heatPanel(kind, columns) {
  const dense = columns > MANY_HEADS;
  const table = element("table", {
    className: dense ? "heat dense" : "heat",
    role: "grid",
    "aria-label": `${HEAT_TITLES[kind]} of each layer and head`,
  });
  const cells = heatCells(table, columns, dense);
  const scale = element("div", { className: "scale" });
  onChange(() => paintHeat(kind, cells, dense));
  onChange(() => paintScale(kind, scale));
  keyboardGrid(table, cells);
  explain(table, (target) => cells.get(target) && describeHead(cells.get(target)));
  table.addEventListener("click", (event) => {
    if (cells.has(event.target)) change({ selected: cells.get(event.target) });
  });
  return element("div", { className: "panel" }, element("h3", {}, HEAT_TITLES[kind]), table, scale);
}

/** Fill the table; its cells, each with its head. */
function heatCells(table, columns, dense) {
  const cells = new Map();
  const step = columns > 20 ? 5 : 1;
  const numbers = [...Array(columns).keys()].map((head) =>
    element("th", { className: "head", scope: "col", textContent: head % step ? "" : head }),
  );
  const long = Math.max(...data.layers.map((layer) => layer.short.length)) > 3;
  const corner = element("th", {
    className: long ? "names long" : "names", scope: "col", "aria-label": "layer",
  });
  table.append(element("thead", {}, element("tr", {}, corner, ...numbers)));
  const body = element("tbody");
  data.layers.forEach((layer, index) => {
    const text = dense && data.layers.length > 20 && index % 5 ? "" : layer.short;
    const name = element("th", {
      scope: "row", textContent: text, title: layer.name, "aria-label": layer.name,
    });
    const row = element("tr", {}, name);
    for (const head of heads.filter((item) => item.layer === index)) {
      const cell = element("td", { role: "gridcell", tabIndex: -1 });
      cells.set(cell, head);
      row.append(cell);
    }
    body.append(row);
  });
  table.append(body);
  return cells;
}

/** Ends of a figure's colour scale over all heads and bins, so that bins compare. */
function domainOf(kind) {
  const values = heads.flatMap((head) => head[kind]);
  const low = values.reduce((least, value) => Math.min(least, value), Infinity);
  const high = values.reduce((most, value) => Math.max(most, value), -Infinity);
  return kind === "mass" ? [low, high] : [0, high];
}

const domains = Object.fromEntries(["density", "mass", "error"].map((kind) => [kind, domainOf(kind)]));

function shareOfDomain(kind, value) {
  const [low, high] = domains[kind];
  return high > low ? (value - low) / (high - low) : 0;
}

function paintHeat(kind, cells, dense) {
  for (const [cell, head] of cells) {
    const value = kind === "order" ? head.order : figureOf(head, kind, state.bin);
    const colour =
      kind === "order"
        ? channels(orderColour(head.order))
        : rampColour(kind, shareOfDomain(kind, value));
    cell.style.background = css(colour);
    cell.style.color = inkOn(colour);
    cell.classList.toggle("off", !passes(head));
    cell.classList.toggle("chosen", head === state.selected);
    cell.tabIndex = head === state.selected ? 0 : -1;
    if (kind === "order") cell.textContent = dense ? letterOf(value) : orderName(head);
    else cell.textContent = dense ? "" : (100 * value).toFixed(1);
    const said = kind === "order" ? orderName(head) : percent(value);
    cell.setAttribute("aria-label", `${titleOf(head)}: ${said}`);
    cell.setAttribute("aria-selected", head === state.selected);
  }
}

function paintScale(kind, scale) {
  if (kind === "order") {
    scale.className = "scale orders";
    scale.replaceChildren(
      ...data.orders.slice(0, ORDER_COLOURS.length + 1).map((order, index) => {
        const further = index === ORDER_COLOURS.length && data.orders.length > index + 1;
        const name = further ? `${data.orders.length - index} more` : order.name;
        const letter = further ? "" : `${letterOf(index)} `;
        const uses = further ? "" : ` ×${order.heads}`;
        return element("span", {}, swatch(orderColour(index)), `${letter}${name}${uses}`);
      }),
    );
    return;
  }
  const ramp = element("span", { className: "ramp" });
  ramp.style.background = rampGradient(kind);
  const [low, high] = domains[kind];
  scale.replaceChildren(percent(low), ramp, percent(high));
}

/** Arrow keys, Home and End move the focus; Enter and space choose. */
function keyboardGrid(table, cells) {
  const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  table.addEventListener("keydown", (event) => {
    const cell = event.target;
    if (!cells.has(cell)) return;
    const row = cell.parentElement;
    let next = null;
    if (event.key in moves) {
      const [down, right] = moves[event.key];
      const rows = [...row.parentElement.rows];
      next = rows[rows.indexOf(row) + down]?.cells[cell.cellIndex + right];
    } else if (event.key === "Home") next = row.cells[1];
    else if (event.key === "End") next = row.cells[row.cells.length - 1];
    else if (event.key === "Enter" || event.key === " ") change({ selected: cells.get(cell) });
    else return;
    event.preventDefault();
    if (next && cells.has(next)) {
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  });
}

function describeHead(head) {
  const figures = ["density", "mass", "error"].map(
    (kind) => `${HEAT_TITLES[kind].toLowerCase()} ${percent(figureOf(head, kind, state.bin))}`,
  );
  return [titleOf(head), `order ${orderName(head)}`, ...figures, binTitle(state.bin)].join("\n");
}
