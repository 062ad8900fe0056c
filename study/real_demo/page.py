"""One page, one file, no network: what was trained, what it does, and how the verdicts were reached."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from sparsepo_plugin.files import write_text
from study.real_demo.sizes import Sizes
from study.real_model.folders import SMOLLM2

SHOWN = {
    "loss": "loss",
    "accuracy": "pairs ranked right, with the masks",
    "accuracy_unmasked": "pairs ranked right, masks removed",
    "chosen_sequence_kl": "KL(reference || policy) of a chosen response, nats",
    "reward_mask_sparsity": "share of tokens whose reward mask is 0",
    "reward_mask_mean": "mean reward mask",
}
PLOTS = ("margin", "sequence_kl", "mask_mean")


def write_page(
    out: Path, sizes: Sizes, took: Mapping[str, Mapping[str, float]], reports: Mapping[str, Path]
) -> Path:
    """Write index.html.

    Args:
      out: the demo's folder.
      sizes: of the demo.
      took: wall and processor seconds by stage.
      reports: folder of the gate's report by suite.
    """
    decided = {
        suite: json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for suite, folder in reports.items()
    }
    agreement = json.loads((out / "agreement.json").read_text(encoding="utf-8"))
    fields = {
        "title": html.escape(SMOLLM2.title),
        "pairs": sizes.pairs,
        "verdicts": _verdicts(decided),
        "judge": _judge(agreement),
        "training": _training(out / "policy" / "metrics.jsonl"),
        "plots": _plots(out / "plots"),
        "tokens": _frame(out / "tokens.html", "Token heat maps of held-out pairs"),
        "reports": "".join(_frame(p / "report.html", f"Report: {name}") for name, p in reports.items()),
        "times": _times(took),
    }
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    write_text(out / "index.html", template.substitute(fields))
    return out / "index.html"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _verdicts(decided: Mapping[str, Any]) -> str:
    rows = []
    for suite, report in decided.items():
        for gate in report["gates"]:
            paired = gate["paired"]
            interval = f"{paired['low']:+.3f} to {paired['high']:+.3f}"
            rows.append(
                (suite, gate["name"], gate["items"], f"{paired['baseline']:.3f}",
                 f"{paired['candidate']:.3f}", interval, f"{gate['margin']:g}", gate["verdict"])
            )  # fmt: skip
    head = ("suite", "what", "items", "start", "policy", "difference", "margin", "verdict")
    return _table(head, rows)


def _judge(rows: Sequence[Mapping[str, Any]]) -> str:
    found = [
        (row["judge"], row["pairs"], f"{row['agreement']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")
        for row in rows
    ]
    return _table(("judge", "people's held-out pairs", "agreement", "95 % interval"), found)


def _training(metrics: Path) -> str:
    """Held-out figures before the first and after the last step."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    held = [line for line in lines if line["split"] == "eval"]
    first, last = held[0], held[-1]
    rows = [
        (said, f"{first[name]:.4g}", f"{last[name]:.4g}")
        for name, said in SHOWN.items()
        if name in first and name in last
    ]
    return _table(("held-out pairs", f"step {first['step']}", f"step {last['step']}"), rows)


def _plots(folder: Path) -> str:
    found = []
    for name in PLOTS:
        path = folder / f"{name}.png"
        if path.is_file():
            content = base64.b64encode(path.read_bytes()).decode()
            found.append(f'<img alt="{name.replace("_", " ")}" src="data:image/png;base64,{content}">')
    return "".join(found)


def _frame(path: Path, title: str) -> str:
    """A whole page inside this one; it keeps its own rules of what may run."""
    content = html.escape(path.read_text(encoding="utf-8"), quote=True)
    head = f"<h2>{html.escape(title)}</h2>"
    return f'{head}<iframe title="{html.escape(title)}" loading="lazy" srcdoc="{content}"></iframe>'


def _times(took: Mapping[str, Mapping[str, float]]) -> str:
    rows = [(name, f"{t['wall']:.0f}", f"{t['processor']:.0f}") for name, t in took.items()]
    total = [f"{sum(t[kind] for t in took.values()):.0f}" for kind in ("wall", "processor")]
    return _table(("stage", "seconds", "of processor time"), [*rows, ("together", *total)])
