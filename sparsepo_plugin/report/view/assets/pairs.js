// The list of pairs. Every pair has its heading; its tokens exist only while it is near the window.
const AHEAD = "1000px";
const SORTS = {
  index: ["order of the data", (a, b) => a.index - b.index],
  largest: ["largest margin", descending((pair) => first(pair).margin)],
  wrong: ["wrong sign first", descending((pair) => (first(pair).margin === null ? null : -first(pair).margin))],
  close: ["smallest margin in size", descending((pair) => (first(pair).margin === null ? null : -Math.abs(first(pair).margin)))],
  sparse: ["most sparse", descending((pair) => first(pair).sparsity)],
  dense: ["least sparse", descending((pair) => -first(pair).sparsity)],
  long: ["longest", descending((pair) => pair.runs[0].sides[0].words.length + pair.runs[0].sides[1].words.length)],
};
// A prompt longer than this shows its end, where the question is, and all of it when asked.
const LONG = 400;

// Margin and sparsity of a pair in a run at the slider's step; of the first run that has it, for the order.
function numbersOf(entry) {
  const place = recordOf(entry.run);
  return { margin: entry.margin[place], sparsity: entry.sparsity[place] };
}

function first(pair) {
  return numbersOf(pair.runs[0]);
}

function isWrong(entry) {
  const { margin } = numbersOf(entry);
  return margin !== null && margin < 0;
}

function descending(of) {
  return (a, b) => {
    const [x, y] = [of(a), of(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
    return y - x || a.index - b.index;
  };
}

// A card that was drawn keeps its height when its tokens go, so that the page does not jump.
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) drawBody(target);
      else if (target.drawn && !target.contains(document.activeElement)) {
        target.style.minHeight = `${target.offsetHeight}px`;
        target.lastElementChild.replaceChildren();
        target.drawn = false;
      }
    }
  },
  { rootMargin: AHEAD },
);

function drawBody(card) {
  if (card.drawn) return;
  card.drawn = true;
  const several = data.runs.length > 1;
  const blocks = card.pair.runs.map(({ run, sides }) => {
    const name = several ? `, ${data.runs[run].label}` : "";
    return element("div", { className: "sides" }, drawResponse(sides[0], `chosen${name}`, run), drawResponse(sides[1], `rejected${name}`, run));
  });
  const save = element("button", { type: "button", className: "save", textContent: "save SVG" });
  save.addEventListener("click", () => saveCard(card));
  card.lastElementChild.replaceChildren(promptOf(card.pair.prompt), ...blocks, save);
  card.style.minHeight = "";
}

function promptOf(prompt) {
  const whole = element("p", { className: "prompt", textContent: prompt, dir: "auto" });
  if (prompt.length <= LONG) return whole;
  const size = prompt.length.toLocaleString("en");
  const end = element("span", { textContent: `\u2026${prompt.slice(-LONG / 2).trimStart()}`, dir: "auto" });
  return element("details", { className: "prompt" }, element("summary", {}, `prompt of ${size} characters: `, end), whole);
}

function newCard(pair) {
  const card = element("article", {}, element("h2", {}, `pair ${pair.index} `, element("span")), element("div"));
  card.pair = pair;
  drawNumbers(card);
  // About right until it is drawn, so that the scroll bar is.
  const [{ sides }] = pair.runs;
  const longest = Math.max(sides[0].words.length, sides[1].words.length);
  card.style.minHeight = `${170 + 26 * pair.runs.length * Math.ceil(longest / 14)}px`;
  return card;
}

function drawNumbers(card) {
  const words = card.pair.runs.map((entry) => {
    const { margin, sparsity } = numbersOf(entry);
    const name = data.runs.length > 1 ? `${data.runs[entry.run].label}: ` : "";
    const text = `${name}margin ${margin === null ? "\u2013" : signed(margin)}${isWrong(entry) ? " (wrong sign)" : ""}`;
    const share = element("span", { textContent: `sparsity ${percent(sparsity)}`, className: "quiet" });
    const said = element("span", { textContent: text, className: isWrong(entry) ? "wrong" : "" });
    return element(data.runs.length > 1 ? "div" : "span", {}, said, " ", share);
  });
  card.querySelector("h2 > span").replaceChildren(...words);
}

function textOf(pair) {
  if (pair.text === undefined) {
    const sides = pair.runs[0].sides.map((side) => {
      const pieces = side.words.map((word) => data.texts[word][0]);
      for (const [start, end, text] of side.joined) pieces.fill("", start, end)[start] = text;
      for (const place of side.spaced) pieces[place] = ` ${pieces[place]}`;
      return pieces.join("");
    });
    pair.text = [pair.prompt, ...sides].join("\n").toLowerCase();
  }
  return pair.text;
}

const cards = data.pairs.map(newCard);

function drawPairs() {
  const query = state.query.toLowerCase();
  const kept = cards.filter(
    ({ pair }) => (!state.wrong || pair.runs.some(isWrong)) && (!query || textOf(pair).includes(query)),
  );
  kept.sort((a, b) => SORTS[state.sort][1](a.pair, b.pair));
  at("pairs").replaceChildren(...kept);
  return `${kept.length} of ${cards.length} pairs`;
}
