// The form that filters heads and chooses the bin.

function buildFilters() {
  const choices = byId("bin-choice");
  const bins = data.bins.length > 1 ? [MEAN, ...data.bins.keys()] : [MEAN];
  for (const bin of bins) {
    const input = element("input", {
      type: "radio", name: "bin", value: bin, defaultChecked: bin === MEAN,
    });
    choices.append(element("label", {}, input, ` ${binTitle(bin)}`));
  }
  const option = (value, text) => element("option", { value, textContent: text });
  byId("layer-choice").append(
    option(ALL, "all layers"),
    ...data.layers.map((layer, index) => option(index, layer.name)),
  );
  byId("order-choice").append(
    option(ALL, "all orders"),
    ...data.orders.map((order, index) => option(index, `${order.name} (${order.heads})`)),
  );
  const form = byId("filters");
  const read = () =>
    change({
      bin: Number(form.elements.bin.value),
      layer: Number(byId("layer-choice").value),
      order: Number(byId("order-choice").value),
    });
  form.addEventListener("input", read);
  form.addEventListener("submit", (event) => event.preventDefault());
  // A form's fields have their first values only after its reset event.
  form.addEventListener("reset", () => setTimeout(read));
  onChange(() => {
    byId("count").textContent = `${heads.filter(passes).length} of ${heads.length} heads`;
  });
}
