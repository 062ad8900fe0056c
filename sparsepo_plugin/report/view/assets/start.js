// Controls, and the first drawing.
const THEMES = ["system", "light", "dark"];

function draw() {
  at("pairs").hidden = state.words;
  at("words").hidden = !state.words;
  for (const label of document.querySelectorAll(".for-pairs")) label.hidden = state.words;
  for (const label of document.querySelectorAll(".for-words")) label.hidden = !state.words;
  at("show-pairs").setAttribute("aria-pressed", String(!state.words));
  at("show-words").setAttribute("aria-pressed", String(state.words));
  at("found").textContent = state.words ? drawWords() : drawPairs();
  hideTip();
}

function drawLayers() {
  for (const layer of data.layers) {
    const radio = element("input", { type: "radio", name: "layer", value: layer.key, disabled: layer.top === null });
    radio.checked = layer.key === state.layer;
    const label = element("label", { title: layer.meaning }, radio, ` ${layer.name}`);
    if (radio.disabled) Object.assign(label, { className: "off", title: "this loss has none" });
    at("layers").append(label);
  }
  at("layers").addEventListener("change", (event) => {
    state.layer = event.target.value;
    drawScale();
    document.querySelectorAll(".tokens").forEach(colourTokens);
  });
}

function drawStep() {
  at("at-step").textContent = state.step;
  cards.forEach(drawNumbers);
  document.querySelectorAll(".tokens").forEach(colourTokens);
}

function listen() {
  let waiting = 0;
  at("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.query = at("search").value;
      draw();
    }, 120);
  });
  at("sort").addEventListener("change", () => Object.assign(state, { sort: at("sort").value }) && draw());
  at("wrong").addEventListener("change", () => Object.assign(state, { wrong: at("wrong").checked }) && draw());
  at("least").addEventListener("input", () => Object.assign(state, { least: Number(at("least").value) || 1 }) && draw());
  at("show-pairs").addEventListener("click", () => Object.assign(state, { words: false }) && draw());
  at("show-words").addEventListener("click", () => Object.assign(state, { words: true }) && draw());
  at("more").addEventListener("click", () => Object.assign(order, { shown: order.shown + PAGE }) && draw());
  at("step").addEventListener("input", () => {
    state.step = data.steps[at("step").value];
    drawStep();
    draw();
  });
  const main = at("tokens");
  for (const name of ["pointerover", "focusin"])
    main.addEventListener(name, (event) => (tokenOf(event) ? showTip(tokenOf(event)) : hideTip()));
  for (const name of ["pointerleave", "focusout"]) main.addEventListener(name, hideTip);
  main.addEventListener("keydown", walk);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
}

drawParts();
at("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "system") + 1) % THEMES.length];
  document.documentElement.dataset.theme = next;
  at("theme").textContent = `theme: ${next}`;
});
if (page.tokens) {
  at("sort").append(...Object.entries(SORTS).map(([key, [name]]) => element("option", { value: key, textContent: name })));
  Object.assign(at("step"), { max: data.steps.length - 1, value: data.steps.length - 1 });
  at("steps").hidden = data.steps.length < 2;
  at("overview").append(...page.overview.map(blockOf));
  drawLayers();
  drawHead();
  drawScale();
  listen();
  drawStep();
  draw();
  cards.forEach((card) => watcher.observe(card));
}
document.documentElement.dataset.ready = "";
