// The chosen head's mask before and after its reorder, and its neighbours of the same layer.

const FRAMES_NAMED = 8;

function tokenTicks() {
  const { frames, frameTokens, firstVisual, tokens } = data.pictures;
  const step = Math.ceil(frames / FRAMES_NAMED);
  return [...Array(frames).keys()]
    .filter((frame) => frame % step === 0)
    .map((frame) => [(firstVisual + frame * frameTokens) / tokens, String(frame)]);
}

function blockTicks(count) {
  const shares = [0, 0.25, 0.5, 0.75, 1];
  return shares.map((share) => [share, String(Math.round(share * count))]);
}

function axesOf(which) {
  if (which === "before") {
    const ticks = tokenTicks();
    return {
      rows: { title: "queries, by frame", ticks },
      columns: { title: "keys, by frame", ticks },
    };
  }
  const [rows, columns] = data.pictures.blocks;
  return {
    rows: { title: "query blocks", ticks: blockTicks(rows) },
    columns: { title: "key blocks", ticks: blockTicks(columns) },
  };
}

const touchedShare = (picture) =>
  picture.values.filter((value) => value > 0).length / picture.values.length;

const ORDER_WORDS = { before: "the model's own order", after: "the head's order" };

async function paintPicture(which, head, bin) {
  const picture = await pictureOf(head, which, bin);
  if (head !== state.selected || bin !== state.bin) return; // overtaken by a later choice
  const canvas = byId(`map-${which}`);
  drawPicture(canvas, picture, axesOf(which));
  const words = ORDER_WORDS[which];
  const share = percent(touchedShare(picture));
  canvas.setAttribute(
    "aria-label",
    `Mask of ${titleOf(head)} in ${words}: ${share} of ${picture.rows} by ${picture.columns} cells hold something attended`,
  );
  const title = which === "before" ? "Before" : `After: ${orderName(head)}`;
  byId(`caption-${which}`).replaceChildren(
    element("strong", {}, title),
    ` – ${words}. ${share} of the cells hold something attended.`,
  );
  canvas.dataset.drawn = `${head.layer}-${head.head}-${bin}`;
}

function paintFacts() {
  const head = state.selected;
  const bins = data.bins.length > 1 ? [MEAN, ...data.bins.keys()] : [MEAN];
  const rows = bins.map((bin) =>
    element(
      "tr",
      { className: bin === state.bin ? "chosen" : "" },
      element("th", { scope: "row" }, bin === MEAN ? (bins.length > 1 ? "mean" : "all") : `bin ${bin}`),
      ...["density", "mass", "error"].map((kind) =>
        element("td", { className: "number" }, percent(figureOf(head, kind, bin))),
      ),
    ),
  );
  const titles = ["", "density", "mass", "error"].map((title) =>
    element("th", { scope: "col", className: title ? "number" : "" }, title),
  );
  byId("head-facts").replaceChildren(
    element("h3", {}, `Head ${head.head}`),
    element("p", { className: "muted" }, element("bdi", {}, layerName(head))),
    element("p", {}, swatch(orderColour(head.order)), " order ", element("strong", {}, orderName(head))),
    element("p", {}, `${data.layers[head.layer].bits.replace("/", " / ")} bits for QK / PV`),
    element("table", { className: "plain" },
      element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows)),
    element("p", { className: "muted" }, `Pictures: ${binTitle(state.bin)}.`),
  );
}

function siblingButton(head) {
  const canvases = ["before", "after"].map((which) => {
    const canvas = element("canvas", { "aria-hidden": true });
    pictureOf(head, which, state.bin).then((picture) => drawThumbnail(canvas, picture));
    return canvas;
  });
  const button = element(
    "button",
    { type: "button", "aria-pressed": head === state.selected },
    ...canvases,
    element("span", {}, `head ${head.head} · ${orderName(head)}`),
  );
  button.addEventListener("click", () => change({ selected: head }));
  return button;
}

function paintSiblings() {
  const layer = state.selected.layer;
  byId("siblings-title").textContent = `All heads of ${data.layers[layer].name}, before and after`;
  const focused = [...byId("siblings").children].indexOf(document.activeElement);
  const buttons = heads.filter((head) => head.layer === layer).map(siblingButton);
  byId("siblings").replaceChildren(...buttons);
  if (focused >= 0) buttons[focused]?.focus();
}

function buildMaps() {
  if (typeof DecompressionStream === "undefined") {
    byId("siblings-title").textContent =
      "This browser cannot unpack the pictures: Chrome 80, Firefox 113 or Safari 16.4 can.";
    onChange(paintFacts);
    return;
  }
  onChange(() => {
    byId("map-ramp").style.background = rampGradient("density");
    for (const which of ["before", "after"]) paintPicture(which, state.selected, state.bin);
    paintFacts();
    paintSiblings();
  });
}
