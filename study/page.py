"""The tables of docs/study.md, from the CSV files alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsepo_plugin.cli.losses import between
from study.domain import DOMAINS
from study.methods import METHODS
from study.rows import Row, number

Tables = dict[str, list[Row]]
LISTED = 12


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- study {name}: begin -->", f"<!-- study {name}: end -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def value(row: Row, column: str, digits: int = 3, *, sign: bool = False) -> str:
    """A number with its interval."""
    middle = number(row, column)
    if middle is None:
        return ""
    shape = f"{'+' if sign else ''}.{digits}f"
    low, high = (number(row, f"{column}_{end}") for end in ("low", "high"))
    ends = "" if low is None or high is None else f" ({low:{shape}} to {high:{shape}})"
    return f"{middle:{shape}}{ends}"


def _plain(row: Row, digits: int = 3) -> str:
    """The columns mean, low and high as one cell."""
    return value({"x": row["mean"], "x_low": row["low"], "x_high": row["high"]}, "x", digits)


def verdicts(tables: Tables) -> str:
    """Claim, measure, figure, verdict, and where they come from."""
    rows = []
    for number_, row in enumerate(tables["verdicts"], 1):
        shown = {"x": row["value"], "x_low": row["low"], "x_high": row["high"]}
        sign = "_over_" in row["column"] or row["column"] == "difference" or row["column"] == "over_margin"
        why = f" ({row['why']})" if row["why"] else ""
        source = f"`{row['file']}`, {row['row']}: `{row['column']}`"
        cells = [str(number_), row["claim"], row["measured"], value(shown, "x", sign=sign)]
        rows.append([*cells, f"**{row['verdict']}**{why}", source])
    return table(["", "claim", "measured here", "figure (95 % interval)", "verdict", "CSV row"], rows)


def judges(tables: Tables) -> str:
    """Held-out accuracy of the classifiers and of the reward models."""
    head = ["judge", "whole reviews", "passages of 8 to 30 words", "sentences of the other data"]
    rows = [
        [row["classifier"], *(f"{float(row[c]):.3f}" for c in ("reviews", "short_passages", "sentences"))]
        for row in tables["sentiment_judges"]
    ]
    first = table(head, rows)
    head = ["domain", "pairs: policy, reward model, validation, test", "reward model right on test pairs"]
    rows = [
        [
            row["domain"],
            ", ".join(row[f"{part}_pairs"] for part in ("policy", "reward", "validation", "test")),
            f"{float(row['accuracy_test']):.3f} (the longer one: {float(row['longer_is_better']):.3f})",
        ]
        for row in tables["domains"]
    ]
    return first + "\n\n" + table(head, rows)


def settings(tables: Tables) -> str:
    """What validation chose for sentiment, and how much was run."""
    runs = {(row["method"], row["beta"], row["seed"]) for row in tables["sentiment"]}
    hours = sum(
        {(r["method"], r["beta"], r["seed"]): float(r["seconds"]) for r in tables["sentiment"]}.values()
    )
    rows = {
        row["method"]: [
            row["method"],
            f"{float(row['rate']):g}",
            row["tried"] if row["tried"] != "{}" else "",
        ]
        for row in tables["sentiment"]
    }
    text = table(["method", "learning rate", "options chosen on validation"], list(rows.values()))
    return f"{len(runs)} runs, {hours / 3600:.1f} hours on one shared CPU thread.\n\n{text}"


def frontier(tables: Tables) -> str:
    """Per budget: every method's beta, reward, check, and difference to DPO."""
    parts = []
    for budget in dict.fromkeys(row["budget"] for row in tables["sentiment_frontier"]):
        some = [row for row in tables["sentiment_frontier"] if row["budget"] == budget]
        rows = [
            [
                row["method"], f"{float(row['beta']):g}", f"{float(row['spent']):.2f}", value(row, "reward"),
                value(row, "reward_over_dpo", sign=True), value(row, "check_over_dpo", sign=True),
            ]
            for row in some
        ]  # fmt: skip
        head = ["method", "beta", "nats spent", "P(positive)", "- dpo", "- dpo, second classifier"]
        betas = min(int(row["betas"]) for row in some)
        about = f"Within {float(budget):g} nats, {some[0]['seeds']} seeds, beta the best of {betas}"
        parts.append(f"{about}:\n\n{table(head, rows)}")
    return "\n\n".join(parts)


WEIGHTS = {
    "sparsity": "zeros",
    "mask_auc": "AUC of the mask",
    "ratio_auc": "AUC of abs. log-ratio",
    "accuracy": "accuracy",
    "accuracy_unmasked": "accuracy, masks removed",
}


def weights(tables: Tables, name: str = "sentiment_weights", by: str = "beta") -> str:
    """Sparsity, finding and accuracies by method and beta (or step)."""
    names = [name for name in METHODS if METHODS[name].weighted or name == "dpo"]
    rows = []
    for method in names:
        for row in tables[name]:
            if row["method"] == method:
                start = [method, f"{float(row[by]):g}", f"{float(row['sampled_kl']):.1f}"]
                rows.append(start + [value(row, column, 2) for column in WEIGHTS])
    return table(["method", by, "nats", *WEIGHTS.values()], rows)


def longer(tables: Tables) -> str:
    """The same along longer trainings."""
    rows = tables["sentiment_longer"]
    if not rows:
        return "Not run."
    runs = {(row["method"], row["seed"]) for row in rows}
    about = f"{len(runs)} runs at beta {float(rows[0]['beta']):g}."
    return f"{about}\n\n{weights(tables, 'sentiment_longer_weights', 'step')}"


def _token(row: Row) -> str:
    return f"`{row['token'].strip() or '(space)'}` {float(row['weight']):.2g}"


def tokens(tables: Tables) -> str:
    """The most and least weighted tokens of the first seed."""
    some = [row for row in tables["sentiment_tokens"] if row["seed"] == tables["sentiment_tokens"][0]["seed"]]
    rows = []
    for method in dict.fromkeys(row["method"] for row in some):
        cells = []
        for end in ("most", "least"):
            mine = [r for r in some if r["method"] == method and r["end"] == end and int(r["rank"]) <= LISTED]
            cells.append(
                " ".join(f"`{r['token'].strip() or '(space)'}` {float(r['weight']):.2g}" for r in mine)
            )
        by = next(row["by"] for row in some if row["method"] == method)
        rows.append([f"{method} ({by})", *cells])
    return table(["method", "most weighted", "least weighted"], rows)


def domains(tables: Tables) -> str:
    """Test results of every domain at temperature 1, every budget."""
    head = ["budget", "method", "beta, step", "nats", "pairs ranked right", "win over the supervised model"]
    parts = []
    for name in DOMAINS:
        test = [row for row in tables[f"{name}_test"] if row["temperature"] in ("", "1")]
        groups = dict.fromkeys((row["budget"], row["method"]) for row in test)
        rows = [_domain_line([r for r in test if (r["budget"], r["method"]) == group]) for group in groups]
        text = table([*head, "- dpo's", "win over dpo itself"], rows) if rows else "not run."
        parts.append(f"{name.capitalize()}:\n\n{text}")
    return "\n\n".join(parts)


def _domain_line(some: list[Row]) -> list[str]:
    """One method within one budget."""
    rows = {row["quantity"]: row for row in some}
    first, win = rows["accuracy, masks removed"], rows["win over the reference"]
    ends = {"d": "difference_mean", "d_low": "difference_low", "d_high": "difference_high"}
    gap = {name: win.get(column, "") for name, column in ends.items()}
    duel = rows.get("win over dpo")
    about = [f"{float(first['budget']):g}", first["method"], f"{float(first['beta']):g}, {first['step']}"]
    figures = [f"{float(first['kl']):.2f}", _plain(first), _plain(win), value(gap, "d", sign=True)]
    return [*about, *figures, _plain(duel) if duel else ""]


def capability(tables: Tables) -> str:
    """Gates before and after."""
    head = ["trained on", "method", "gate", "items", "before", "after"]
    rows = []
    for row in tables["capability"]:
        about = [row["domain"], row["method"], f"{row['suite']}: {row['gate']}", row["items"]]
        figures = [
            f"{float(row['before']):.3f}",
            f"{float(row['after']):.3f}",
            value(row, "difference", sign=True),
        ]
        rows.append([*about, *figures, f"{float(row['margin']):g}", row["verdict"]])
    ends = ["difference (each end 95 %, one-sided)", "margin", "the gate's verdict"]
    return table([*head, *ends], rows) if rows else "Not run."


SECTIONS: dict[str, Callable[[Tables], str]] = {
    "verdicts": verdicts,
    "judges": judges,
    "settings": settings,
    "frontier": frontier,
    "weights": weights,
    "longer": longer,
    "tokens": tokens,
    "domains": domains,
    "capability": capability,
}


def skeleton() -> str:
    """A page with nothing but the markers."""
    return "# Study\n\n" + "\n\n".join("\n".join(_markers(name)) for name in SECTIONS) + "\n"


def filled(text: str, tables: Tables) -> str:
    """Put every table between its markers; a page may leave sections out."""
    for name, make in SECTIONS.items():
        begin, end = _markers(name)
        if begin in text:
            text = between(text, begin, end, make(tables))
    return text
