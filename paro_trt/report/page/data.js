// The plan's figures and pictures, as the page's own elements hold them.

const data = JSON.parse(document.getElementById("report-data").textContent);
const MEAN = -1; // in place of a bin: the mean of all

const heads = data.layers.flatMap((layer, layerIndex) =>
  layer.order.map((order, head) => ({
    layer: layerIndex,
    head,
    order,
    density: layer.density[head],
    mass: layer.mass[head],
    error: layer.error[head],
  })),
);

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** A head's density, mass or error in a bin, or its mean over bins. */
function figureOf(head, name, bin) {
  return bin === MEAN ? mean(head[name]) : head[name][bin];
}

const layerName = (head) => data.layers[head.layer].name;
const orderName = (head) => data.orders[head.order].name;
const titleOf = (head) => `${layerName(head)}, head ${head.head}`;
const binTitle = (bin) =>
  bin === MEAN ? (data.bins.length > 1 ? "mean of all bins" : data.bins[0]) : data.bins[bin];

function percent(value) {
  const shown = 100 * value;
  return `${shown > 0 && shown < 1 ? shown.toFixed(2) : shown.toFixed(1)}\u202f%`;
}

const unpackedLayers = new Map();

/** Levels of a layer's pictures, one in a byte, unpacked once. */
function unpackedLayer(layer) {
  if (!unpackedLayers.has(layer)) unpackedLayers.set(layer, unpack(layer));
  return unpackedLayers.get(layer);
}

async function unpack(layer) {
  const text = atob(document.getElementById(`pictures-${layer}`).textContent);
  const packed = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const nibbles = new Uint8Array(await new Response(stream).arrayBuffer());
  const levels = new Uint8Array(2 * nibbles.length);
  nibbles.forEach((pair, index) => {
    levels[2 * index] = pair & 15;
    levels[2 * index + 1] = pair >> 4;
  });
  return levels;
}

/** One picture, "before" or "after": its rows, columns and values in [0, 1]; a mean over bins. */
async function pictureOf(head, which, bin) {
  const levels = await unpackedLayer(head.layer);
  const bins = data.bins.length;
  const count = data.layers[head.layer].order.length;
  const [rows, columns] = data.pictures[which];
  const cells = rows * columns;
  const [beforeRows, beforeColumns] = data.pictures.before;
  const start = which === "before" ? 0 : bins * count * beforeRows * beforeColumns;
  const values = new Float32Array(cells);
  const shown = bin === MEAN ? [...Array(bins).keys()] : [bin];
  for (const index of shown) {
    const first = start + (index * count + head.head) * cells;
    for (let cell = 0; cell < cells; cell += 1) {
      values[cell] += levels[first + cell] / data.pictures.levels / shown.length;
    }
  }
  return { rows, columns, values };
}
