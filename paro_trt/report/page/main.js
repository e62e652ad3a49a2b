// Build every part once, then draw.

buildFilters();
buildHeat();
buildTable();
buildMaps();
buildTradeoff();

function chooseTheme(name) {
  document.documentElement.dataset.theme = name;
  change();
}

byId("theme").addEventListener("click", () => chooseTheme(theme() === "dark" ? "light" : "dark"));
darkScheme.addEventListener("change", () => change());
addEventListener("resize", () => change());

// Paper is white: canvases and cells are drawn anew for it, then put back.
let screenTheme = null;
addEventListener("beforeprint", () => {
  screenTheme = theme();
  chooseTheme("light");
});
addEventListener("afterprint", () => chooseTheme(screenTheme));

change();
document.documentElement.dataset.ready = "true";
