// Density against error or mass: one point for each head, and medians of groups of heads with similar density.

const PLOT = { width: 1160, height: 380, left: 64, right: 20, top: 16, bottom: 48 };
const GROUP = 6; // heads in a group at least
const MOST_GROUPS = 10;

/** A round step that parts [low, high] into about `count`. */
function ticksOf(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((item) => item >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

function extentOf(values, fromZero) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (high - low) || 0.05;
  return [fromZero ? 0 : Math.max(low - room, 0), high + room];
}

function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const index = Math.floor(place);
  const next = sorted[Math.min(index + 1, sorted.length - 1)];
  return sorted[index] + (place - index) * (next - sorted[index]);
}

/** Median density, and quartiles of the other figure, of groups of heads with similar density. */
function groupsOf(points) {
  const count = Math.min(MOST_GROUPS, Math.floor(points.length / GROUP));
  if (count < 2) return [];
  const sorted = [...points].sort((a, b) => a.x - b.x);
  return Array.from({ length: count }, (_, index) => {
    const [from, to] = [index, index + 1].map((edge) => Math.round((edge * sorted.length) / count));
    const group = sorted.slice(from, to);
    const ys = group.map((point) => point.y).sort((a, b) => a - b);
    return {
      x: quantile(group.map((point) => point.x), 0.5),
      low: quantile(ys, 0.25), middle: quantile(ys, 0.5), high: quantile(ys, 0.75),
    };
  });
}

function pointsOf() {
  const bins = state.bin === MEAN ? [...data.bins.keys()] : [state.bin];
  return heads.flatMap((head) =>
    bins.map((bin) => ({ head, bin, x: head.density[bin], y: head[state.measure][bin] })),
  );
}

function buildTradeoff() {
  byId("measure-choice").addEventListener("input", (event) => change({ measure: event.target.value }));
  const points = new Map();
  explain(byId("scatter"), (target) => points.get(target) && describePoint(points.get(target)));
  byId("scatter").addEventListener("click", (event) => {
    if (points.has(event.target)) change({ selected: points.get(event.target).head });
  });
  onChange(() => paintTradeoff(points));
}

function describePoint(point) {
  return [
    titleOf(point.head), `order ${orderName(point.head)}`, data.bins[point.bin],
    `density ${percent(point.x)}`, `${measureTitle()} ${percent(point.y)}`,
  ].join("\n");
}

const measureTitle = () => (state.measure === "error" ? "predicted error" : "mass");

function paintTradeoff(registry) {
  const points = pointsOf();
  const heldout = state.measure === "error" && data.heldout !== null;
  const whole = heldout ? [{ x: data.density, y: data.heldout }] : [];
  const all = [...points, ...whole];
  const x = scaleOf(extentOf(all.map((point) => point.x), false), PLOT.left, PLOT.width - PLOT.right);
  const yExtent = extentOf(all.map((point) => point.y), state.measure === "error");
  const y = scaleOf(yExtent, PLOT.height - PLOT.bottom, PLOT.top);
  const shown = points.filter((point) => passes(point.head));
  const drawn = svg("svg", {
    viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img",
    "aria-label": `${measureTitle()} of ${shown.length} heads and bins against their density`,
  });
  drawn.append(...plotAxes(x, y), ...medianLine(groupsOf(shown), x, y));
  registry.clear();
  for (const point of points) {
    const circle = pointCircle(point, x, y);
    registry.set(circle, point);
    drawn.append(circle);
  }
  drawn.append(...whole.map((point) => wholeMark(x(point.x), y(point.y))));
  byId("scatter").replaceChildren(drawn);
  paintLegend(heldout);
}

function scaleOf([low, high], from, to) {
  const scale = (value) => from + ((value - low) / (high - low)) * (to - from);
  return Object.assign(scale, { low, high });
}

function plotAxes(x, y) {
  const parts = [];
  const [bottom, right] = [PLOT.height - PLOT.bottom, PLOT.width - PLOT.right];
  for (const value of ticksOf(y.low, y.high, 5)) {
    parts.push(svg("line", { class: "grid", x1: PLOT.left, x2: right, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: PLOT.left - 10, y: y(value) + 4, "text-anchor": "end" }, tickText(value)));
  }
  for (const value of ticksOf(x.low, x.high, 8)) {
    parts.push(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 5 }));
    parts.push(svg("text", { x: x(value), y: bottom + 20, "text-anchor": "middle" }, tickText(value)));
  }
  const middle = (PLOT.left + right) / 2;
  parts.push(svg("text", { x: middle, y: PLOT.height - 6, "text-anchor": "middle" }, "density"));
  const turned = `translate(14 ${bottom / 2}) rotate(-90)`;
  parts.push(svg("text", { transform: turned, "text-anchor": "middle" }, measureTitle()));
  return parts;
}

const tickText = (value) => `${Number((100 * value).toPrecision(4))}\u202f%`;

function medianLine(groups, x, y) {
  if (!groups.length) return [];
  const path = (key) => groups.map((group) => `${x(group.x)},${y(group[key])}`);
  return [
    svg("polygon", { class: "band", points: [...path("high"), ...path("low").reverse()].join(" ") }),
    svg("polyline", { class: "median", points: path("middle").join(" ") }),
  ];
}

function pointCircle(point, x, y) {
  const chosen = point.head === state.selected;
  const classes = [passes(point.head) ? "" : "off", chosen ? "chosen" : ""].join(" ").trim();
  return svg("circle", {
    cx: x(point.x), cy: y(point.y), r: chosen ? 7 : heads.length > 300 ? 3 : 5,
    fill: orderColour(point.head.order), class: classes,
  });
}

function wholeMark(x, y) {
  return svg("path", { class: "whole", d: `M${x} ${y - 8}l8 8l-8 8l-8 -8z` });
}

function paintLegend(heldout) {
  const orders = data.orders.slice(0, ORDER_COLOURS.length).map((order, index) =>
    element("span", {}, swatch(orderColour(index)), ` ${order.name}`),
  );
  if (data.orders.length > ORDER_COLOURS.length) {
    orders.push(element("span", {}, swatch(FURTHER_ORDER), " other orders"));
  }
  const mark = heldout ? [element("span", {}, "◇ the whole plan on held-out prompts")] : [];
  byId("scatter-legend").replaceChildren(...orders, ...mark);
}
