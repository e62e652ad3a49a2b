// What the reader has chosen, and who must redraw when that changes.

const ALL = -1; // no filter
const state = {
  bin: MEAN,
  layer: ALL,
  order: ALL,
  measure: "error",
  sort: { by: "place", descending: false },
  selected: heads.find(
    (head) => head.layer === data.pictures.first[0] && head.head === data.pictures.first[1],
  ),
};

const redraws = [];

function onChange(redraw) {
  redraws.push(redraw);
}

function change(changes = {}) {
  Object.assign(state, changes);
  for (const redraw of redraws) redraw();
}

const passes = (head) =>
  (state.layer === ALL || head.layer === state.layer) &&
  (state.order === ALL || head.order === state.order);
