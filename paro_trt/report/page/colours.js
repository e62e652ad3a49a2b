// Colour scales that stay apart for colour-blind readers, on light and on dark ground.

const RAMPS = {
  density: {
    light: ["#eef2f8", "#c3d7f1", "#86b0e3", "#4682cb", "#1d539f", "#0a2c63"],
    dark: ["#1c2530", "#1e3c61", "#285c99", "#4789d2", "#8abaf0", "#dbeaff"],
  },
  mass: {
    light: ["#edf5f1", "#bde1d2", "#7cc4a8", "#3ba07c", "#147456", "#044832"],
    dark: ["#1a2622", "#1a4436", "#226e58", "#38a07f", "#7ccdac", "#d3f5e6"],
  },
  error: {
    light: ["#faf1e7", "#fad6ab", "#f2ab64", "#e07b2b", "#b2510c", "#6f2d03"],
    dark: ["#292119", "#55361a", "#8c5219", "#cb7a29", "#f1ad6c", "#fde5ca"],
  },
};

// Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008), then grey for every further order.
const ORDER_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800"];
const FURTHER_ORDER = "#8a929c";

const darkScheme = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return document.documentElement.dataset.theme ?? (darkScheme.matches ? "dark" : "light");
}

const channels = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

/** Colour [r, g, b] of a share in [0, 1]. */
function rampColour(name, share) {
  const stops = RAMPS[name][theme()];
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2);
  const [low, high] = [channels(stops[index]), channels(stops[index + 1])];
  return low.map((value, channel) => value + (place - index) * (high[channel] - value));
}

const css = (rgb) => `rgb(${rgb.map(Math.round).join(" ")})`;
const orderColour = (order) => ORDER_COLOURS[order] ?? FURTHER_ORDER;

/** Black or white, whichever reads better on a colour (WCAG's relative luminance). */
function inkOn(rgb) {
  const [r, g, b] = rgb.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#10161d" : "#ffffff";
}

function rampGradient(name) {
  return `linear-gradient(90deg, ${RAMPS[name][theme()].join(", ")})`;
}
