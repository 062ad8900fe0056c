// The vocabulary table: every token of the record with its mean of every layer.
const PAGE = 200;
const columns = [
  { key: "text", name: "token" },
  { key: "token_id", name: "id" },
  ...(data.runs.length > 1 ? [{ key: "label", name: "run" }] : []),
  { key: "count", name: "count" },
  { key: "zeros", name: "reward mask exactly 0", show: percent },
  ...data.layers
    .filter((layer) => layer.top !== null)
    .map((layer) => ({ key: layer.key, name: `mean ${layer.name}`, layer })),
];
const order = { key: state.layer, down: true, shown: PAGE };

function compare(a, b) {
  const [x, y] = [a[order.key], b[order.key]];
  if (x === null || y === null) return (x === null) - (y === null);
  const found = typeof x === "string" ? (x < y ? -1 : x > y ? 1 : 0) : x - y;
  return order.down ? -found : found;
}

function drawHead() {
  const heads = columns.map((column) => {
    const button = element("button", { type: "button", textContent: column.name });
    button.addEventListener("click", () => {
      order.down = order.key === column.key ? !order.down : !["text", "label"].includes(column.key);
      order.key = column.key;
      draw();
    });
    const head = element("th", { scope: "col" }, button);
    head.key = column.key;
    return head;
  });
  document.querySelector("#words thead tr").replaceChildren(...heads);
}

function cell(column, row) {
  const value = row[column.key];
  const text = column.show ? column.show(value) : typeof value === "string" ? value : number(value);
  return element("td", { textContent: text, className: column.layer ? shade(column.layer, value) : "" });
}

function drawWords() {
  for (const head of document.querySelectorAll("#words th"))
    head.setAttribute("aria-sort", head.key !== order.key ? "none" : order.down ? "descending" : "ascending");
  const query = state.query.toLowerCase();
  const rows = data.runs.flatMap(({ label }, run) =>
    data.vocabulary[run][recordOf(run)].map((row) => {
      const [text, token_id] = data.texts[row.word];
      return { ...row, text, token_id, label };
    }),
  );
  const kept = rows.filter((row) => row.count >= state.least && row.text.toLowerCase().includes(query));
  kept.sort(compare);
  const shown = kept.slice(0, order.shown).map((row) => element("tr", {}, ...columns.map((column) => cell(column, row))));
  document.querySelector("#words tbody").replaceChildren(...shown);
  at("more").hidden = kept.length <= order.shown;
  return `${kept.length} of ${rows.length} tokens`;
}
