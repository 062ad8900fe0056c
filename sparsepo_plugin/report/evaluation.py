"""What eval-harness measured, read from the JSON that docs/gate.md documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.report.view.blocks import Block, fold, paragraph, quote, table

REPORT, RESULT = "report.json", "result.json"
_PLACES = (REPORT, f"report/{REPORT}", RESULT)
# What a page shows of long texts and of many items; the harness's own page has more.
_LONGEST, _FLIPS = 2000, 20


def within(run: Path) -> list[Path]:
    """Evaluations that lie in a run's folder, in one below it, or in RUN-eval, which a training proposes."""
    below = sorted(path for path in run.iterdir() if path.is_dir() and path.name != "report")
    folders = [run, *below, run.absolute().with_name(f"{run.absolute().name}-eval")]
    return [path for folder in folders if (path := _file_in(folder))]


def locate(name: str) -> Path:
    """The file of an evaluation, given itself, its folder, or the folder of its run.

    Raises:
      UserError: there is none.
    """
    path = Path(name)
    file = path if path.is_file() else _file_in(path)
    if file is None:
        raise UserError(
            f"--eval {name}: got no {' or '.join(_PLACES)} there, expected a folder of eval-harness"
        )
    return file


def _file_in(folder: Path) -> Path | None:
    return next((folder / place for place in _PLACES if (folder / place).is_file()), None)


def read(path: Path) -> list[Block]:
    """Verdict, gates and flipped items of a report, or the scores of a result.

    Raises:
      UserError: the file is neither.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return [paragraph(path), *(_report(data) if "gates" in data else _result(data))]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected eval-harness's JSON") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")[:120]
        raise UserError(
            f"{path}: got another form ({reason}), expected report.json or result.json of eval-harness; "
            "write it again with eval-harness gate or eval-harness run"
        ) from None


def _report(data: dict[str, Any]) -> Iterator[Block]:
    models = f"{data['candidate']['label']} against {data['baseline']['label']}"
    preset = f"{data['suite']}:{data['preset']} v{data['preset_version']}"
    yield paragraph(f"{data['verdict']}: {models}; {preset}, alpha {data['alpha']:g}")
    head = (
        "gate",
        "verdict",
        "difference",
        "from",
        "to",
        "margin",
        "baseline",
        "candidate",
        "items",
        "p, Holm",
    )
    rows = []
    for gate in data["gates"]:
        pair = gate["paired"]
        numbers = (pair["difference"], pair["low"], pair["high"], gate["margin"])
        shown = (f"{value:+.3f}" for value in numbers[:3])
        means = (f"{pair[name]:.3f}" for name in ("baseline", "candidate"))
        name = gate["name"] if gate["blocking"] else f"{gate['name']} (not blocking)"
        rows.append((name, gate["verdict"], *shown, numbers[3], *means, gate["items"], gate["p_holm"]))
    yield table(head, rows)
    if data["facts"]:
        yield table(("measured", ""), data["facts"])
    for note in (*data["notes"], *(f"{gate['name']}: {n}" for gate in data["gates"] for n in gate["notes"])):
        yield paragraph(f"Note: {note}")
    for gate in data["gates"]:
        flips = [flip for flip in data["flips"] if flip["gate"] == gate["name"]][:_FLIPS]
        if flips:
            counts = f"{gate['paired']['lost']} lost, {gate['paired']['gained']} gained"
            yield fold(f"{gate['name']}: {counts}; {len(flips)} shown", map(_flip, flips))


def _flip(flip: dict[str, Any]) -> Block:
    values = f"baseline {flip['baseline_value']:g}, candidate {flip['candidate_value']:g}"
    texts = [("Prompt", flip["prompt"]), ("Target", flip["target"])]
    texts += [(f"{side.title()}'s output", _outputs(flip, side)) for side in ("baseline", "candidate")]
    shown = [block for name, words in texts if words for block in (paragraph(name), quote(_clip(words)))]
    orders = flip.get("orders") or ()
    if orders:
        first, second = ("no verdict" if share is None else f"{share:g}" for share in orders)
        shown.append(
            paragraph(f"Judge's share for the candidate: {first} with its text first, {second} second")
        )
    return fold(f"{flip['change']}: {flip['task']} {flip['doc_id']}, {values}", shown)


def _outputs(flip: dict[str, Any], side: str) -> str:
    outputs = flip[f"{side}_outputs"]
    if len(flip["choices"]) != len(outputs):
        return "\n".join(map(str, outputs))
    pairs = zip(flip["choices"], outputs)
    return "\n".join(f"{choice.strip()}: {float(output[0]):.2f} nats" for choice, output in pairs)


def _clip(words: str) -> str:
    return (
        words if len(words) <= _LONGEST else f"[{len(words) - _LONGEST} characters cut] {words[-_LONGEST:]}"
    )


def _result(data: dict[str, Any]) -> Iterator[Block]:
    preset = f"{data['suite']}:{data['preset']} v{data['preset_version']}"
    yield paragraph(f"{data['model']['label']}; {preset}")
    scores = data["scores"]
    for title, is_main in (("", True), ("Further metrics", False)):
        shown = [score for score in scores if bool(score.get("main")) is is_main]
        rows = [(s["task"], s["metric"], float(s["value"]), s["stderr"], s["n"]) for s in shown]
        if rows:
            block = table(("task", "metric", "value", "standard error", "items"), rows)
            yield block if is_main else fold(f"{title}: {len(rows)}", [block])
    for note in data["notes"]:
        yield paragraph(f"Note: {note}")
