// The token records, and how a value becomes a class of the style sheet.
const data = page.tokens || { colours: [1, 1], runs: [], steps: [], layers: [], texts: [], vocabulary: [], pairs: [] };
const [STEPS, SIGNED_STEPS] = data.colours;
const layers = Object.fromEntries(data.layers.map((layer) => [layer.key, layer]));
const opening = data.layers.find((layer) => layer.top !== null);
const state = { layer: opening && opening.key, step: data.steps.at(-1), sort: "index", wrong: false, query: "", least: 1, words: false };

// Which of a run's records the slider shows: the last one up to its step, or the first.
function recordOf(run) {
  return Math.max(0, data.runs[run].steps.findLastIndex((step) => step <= state.step));
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
  if (value === 0 && !layer.signed) return "zero";
  if (layer.signed || layer.centre) {
    const step = Math.round((SIGNED_STEPS * (value - layer.centre)) / (value < layer.centre ? below(layer) : layer.top));
    if (step === 0) return "d0";
    return (step > 0 ? "p" : "n") + Math.min(Math.abs(step), SIGNED_STEPS);
  }
  return "s" + Math.max(1, Math.min(STEPS, Math.ceil((STEPS * value) / layer.top)));
}

// How far the colours reach below the middle: those of a mask, which is never negative, no further than to 0.
function below(layer) {
  return layer.signed ? layer.top : Math.min(layer.top, layer.centre);
}

function drawScale() {
  const layer = layers[state.layer];
  const parted = layer.signed || layer.centre === 1;
  const bar = element("div", { className: "bar" });
  const classes = [];
  if (parted) for (let n = SIGNED_STEPS; n > 0; n--) classes.push("n" + n);
  if (parted) classes.push("d0");
  for (let n = 1; n <= (parted ? SIGNED_STEPS : STEPS); n++) classes.push((parted ? "p" : "s") + n);
  bar.append(...classes.map((name) => element("i", { className: name })));
  const unit = layer.unit ? ` ${layer.unit}` : "";
  const end = layer.signed ? signed : number;
  const ends = parted
    ? [`\u2264 ${end(layer.centre - below(layer))}`, number(layer.centre), `\u2265 ${end(layer.centre + layer.top)}${unit}`]
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
