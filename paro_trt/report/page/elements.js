// Small helpers for building elements. Text is only ever set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

/** An HTML element with properties and children; a string child becomes text. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role" || name === "scope") made.setAttribute(name, value);
    else if (name === "dataset") Object.assign(made.dataset, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** An SVG element with attributes; a text child becomes text. */
function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const swatch = (colour) => {
  const made = element("span", { className: "swatch" });
  made.style.background = colour;
  return made;
};

/** Show a text next to the pointer or the focused element while it is over `target`. */
function explain(target, textOf) {
  const tip = byId("tooltip");
  const show = (event) => {
    const text = textOf(event.target);
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const box = event.target.getBoundingClientRect();
    const [x, y] = event.clientX ? [event.clientX, event.clientY] : [box.right, box.bottom];
    tip.style.left = `${Math.min(x + 12, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(y + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  const hide = () => {
    tip.hidden = true;
  };
  target.addEventListener("pointermove", show);
  target.addEventListener("focusin", show);
  target.addEventListener("pointerleave", hide);
  target.addEventListener("focusout", hide);
}
