// Pictures of masks on canvases, with the axes of their tokens or blocks.

const MARGIN = { left: 46, top: 4, right: 6, bottom: 34 };
const THUMBNAIL = 160; // pixels

/** The picture's cells, one pixel each. */
function cellImage(picture) {
  const image = new ImageData(picture.columns, picture.rows);
  const palette = new Map();
  picture.values.forEach((value, cell) => {
    if (!palette.has(value)) palette.set(value, [...rampColour("density", value), 255]);
    image.data.set(palette.get(value), 4 * cell);
  });
  const canvas = element("canvas", { width: picture.columns, height: picture.rows });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawThumbnail(canvas, picture) {
  canvas.width = THUMBNAIL;
  canvas.height = THUMBNAIL;
  drawCells(canvas.getContext("2d"), picture, 0, 0, THUMBNAIL, THUMBNAIL);
}

/** Enlarged cells keep their edges; cells smaller than pixels are averaged to avoid aliasing. */
function drawCells(context, picture, x, y, width, height) {
  context.imageSmoothingEnabled = picture.columns > context.canvas.width / 2;
  context.imageSmoothingQuality = "high";
  context.drawImage(cellImage(picture), x, y, width, height);
}

/** Draw a picture with ticks; axes: { rows, columns }, each { title, ticks: [[share, text]] }. */
function drawPicture(canvas, picture, axes) {
  const ratio = Math.max(devicePixelRatio, 2);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const area = {
    x: MARGIN.left,
    y: MARGIN.top,
    width: width - MARGIN.left - MARGIN.right,
    height: height - MARGIN.top - MARGIN.bottom,
  };
  drawCells(context, picture, area.x, area.y, area.width, area.height);
  drawAxes(context, area, axes, getComputedStyle(canvas).color);
}

function drawAxes(context, area, axes, colour) {
  context.fillStyle = colour;
  context.strokeStyle = colour;
  context.font = "11px Inter, system-ui, sans-serif";
  const [bottom, right] = [area.y + area.height, area.x + area.width];
  for (const [share, text] of axes.columns.ticks) {
    const x = area.x + share * area.width;
    line(context, x, bottom + 1, x, bottom + 5);
    label(context, text, x, bottom + 16, share === 1 ? "right" : "center");
  }
  label(context, axes.columns.title, (area.x + right) / 2, bottom + 30, "center");
  for (const [share, text] of axes.rows.ticks) {
    const y = area.y + share * area.height;
    line(context, area.x - 5, y, area.x - 1, y);
    label(context, text, area.x - 7, y + (share === 0 ? 8 : 4), "right");
  }
  context.save();
  context.translate(11, (area.y + bottom) / 2);
  context.rotate(-Math.PI / 2);
  label(context, axes.rows.title, 0, 0, "center");
  context.restore();
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

function label(context, text, x, y, align) {
  context.textAlign = align;
  context.fillText(text, x, y);
}
