// The list of pairs. Every pair has its heading; its tokens exist only while it is near the window.
const AHEAD = "1000px";
const SORTS = {
  index: ["order of the data", (a, b) => a.index - b.index],
  largest: ["largest margin", descending((pair) => pair.margin)],
  wrong: ["wrong sign first", descending((pair) => (pair.margin === null ? null : -pair.margin))],
  close: ["smallest margin in size", descending((pair) => (pair.margin === null ? null : -Math.abs(pair.margin)))],
  sparse: ["most sparse", descending((pair) => pair.sparsity)],
  dense: ["least sparse", descending((pair) => -pair.sparsity)],
  long: ["longest", descending((pair) => pair.sides[0].words.length + pair.sides[1].words.length)],
};

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
  const { prompt, sides } = card.pair;
  const text = element("p", { className: "prompt", textContent: prompt, dir: "auto" });
  const both = element("div", { className: "sides" }, drawResponse(sides[0], "chosen"), drawResponse(sides[1], "rejected"));
  card.lastElementChild.replaceChildren(text, both);
  card.style.minHeight = "";
}

function newCard(pair) {
  const wrong = pair.margin !== null && pair.margin < 0;
  const margin = `margin ${pair.margin === null ? "\u2013" : signed(pair.margin)}${wrong ? " (wrong sign)" : ""}`;
  const heading = element(
    "h2", {}, `pair ${pair.index} `,
    element("span", { textContent: margin, className: wrong ? "wrong" : "" }), " ",
    element("span", { textContent: `sparsity ${percent(pair.sparsity)}`, className: "quiet" }),
  );
  const card = element("article", {}, heading, element("div"));
  card.pair = pair;
  // About right until it is drawn, so that the scroll bar is.
  const longest = Math.max(pair.sides[0].words.length, pair.sides[1].words.length);
  card.style.minHeight = `${170 + 26 * Math.ceil(longest / 14)}px`;
  return card;
}

function textOf(pair) {
  if (pair.text === undefined) {
    const sides = pair.sides.map((side) => {
      const pieces = side.words.map((word) => data.words[word].text);
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
    ({ pair }) => (!state.wrong || (pair.margin !== null && pair.margin < 0)) && (!query || textOf(pair).includes(query)),
  );
  kept.sort((a, b) => SORTS[state.sort][1](a.pair, b.pair));
  at("pairs").replaceChildren(...kept);
  return `${kept.length} of ${cards.length} pairs`;
}
