"use strict";
// Data, and how a value becomes a class of the style sheet.
const data = JSON.parse(document.getElementById("data").textContent);
const [STEPS, SIGNED_STEPS] = data.steps;
const layers = Object.fromEntries(data.layers.map((layer) => [layer.key, layer]));
const state = { layer: "reward_mask", sort: "index", wrong: false, query: "", least: 1, words: false };

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function at(id) {
  return document.getElementById(id);
}

function number(value) {
  if (value === null || value === undefined) return "\u2013";
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}

function percent(value) {
  return value === null ? "\u2013" : `${(100 * value).toFixed(1)} %`;
}

function signed(value) {
  return value > 0 ? `+${number(value)}` : number(value);
}

// Every value but an exact 0 of a mask gets a colour; an exact 0 gets none, because that is what sparsity counts.
function shade(layer, value) {
  if (value === null) return "none";
  if (layer.signed) {
    const step = Math.round((SIGNED_STEPS * value) / layer.top);
    if (step === 0) return "d0";
    return (step > 0 ? "p" : "n") + Math.min(Math.abs(step), SIGNED_STEPS);
  }
  if (value === 0) return "zero";
  return "s" + Math.max(1, Math.min(STEPS, Math.ceil((STEPS * value) / layer.top)));
}

function drawScale() {
  const layer = layers[state.layer];
  const bar = element("div", { className: "bar" });
  const classes = [];
  if (layer.signed) for (let n = SIGNED_STEPS; n > 0; n--) classes.push("n" + n);
  if (layer.signed) classes.push("d0");
  for (let n = 1; n <= (layer.signed ? SIGNED_STEPS : STEPS); n++) classes.push((layer.signed ? "p" : "s") + n);
  bar.append(...classes.map((name) => element("i", { className: name })));
  const unit = layer.unit ? ` ${layer.unit}` : "";
  const ends = layer.signed
    ? [`\u2264 ${number(-layer.top)}`, "0", `\u2265 +${number(layer.top)}${unit}`]
    : ["above 0", number(layer.top / 2), `\u2265 ${number(layer.top)}${unit}`];
  const widths = [Math.floor(classes.length / 3), 0, Math.floor(classes.length / 3)];
  widths[1] = classes.length - widths[0] - widths[2];
  let column = 1;
  ends.forEach((text, place) => {
    const label = element("b", { textContent: text, className: place === 1 ? "middle" : "" });
    label.style.gridColumn = `${column} / span ${widths[place]}`;
    column += widths[place];
    bar.append(label);
  });
  const keys = [];
  if (!layer.signed) keys.push(element("span", { className: "key zero", textContent: "exactly 0" }));
  keys.push(element("span", { className: "key none", textContent: "no value" }));
  const meaning = element("span", { className: "quiet", textContent: `${layer.name}: ${layer.meaning}` });
  at("scale").replaceChildren(bar, ...keys, meaning);
  at("scale").setAttribute("aria-label", `colour scale of ${layer.name}: ${ends.join(", ")}`);
}
