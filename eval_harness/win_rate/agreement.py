"""How far a judge agrees with people, on pairs of which they preferred one."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.rows import Row, read_rows, text_field
from eval_harness.files.tables import markdown_table, text_table
from eval_harness.files.writing import write_text
from eval_harness.judges import Judge, ask
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.identity import sha
from eval_harness.stats.agreement import cohen_kappa
from eval_harness.win_rate.comparisons import Comparison, judgements, questions, tally
from eval_harness.win_rate.summary import win_rate

_FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class JudgeAgreement:
    """One judge on one file.

    `agreement` is the share of pairs in which the judge, asked in both orders, prefers what people prefer,
    ties one half; `stderr`, `low` and `high` (95 % interval) are clustered by prompt. `kappa` compares the
    labels first, second and tie, with people's choice in the first place for a random half of the pairs.
    `position_bias` is the share of pairs in which the same place won twice.
    """

    data: str
    judge: str
    pairs: int
    judged: int
    agreement: float
    stderr: float
    low: float
    high: float
    kappa: float
    ties: float
    position_bias: float | None
    unparsable: int
    failed: int


def read_pairs(path: Path, limit: int | None) -> list[Comparison]:
    """Pairs of a file, what people chose as the candidate. Raises UserError: a row without its texts."""

    def pair(number: int, row: Row) -> Comparison:
        where = f"{path}, row {number + 1}"
        prompt, chosen, rejected = (text_field(row, field, where, optional=True) for field in _FIELDS)
        return Comparison(path.name, number, prompt, chosen.strip(), rejected.strip())

    return [pair(number, row) for number, row in enumerate(read_rows(path)[:limit])]


def measure(pairs: Sequence[Comparison], judge: Judge, store: AnswerStore, data: str) -> JudgeAgreement:
    """Ask the judge about every pair in both orders. Raises UserError: not one judgement."""
    answers, _ = ask(judge, questions(pairs), store)
    judged = judgements(pairs, answers)
    kept = [(pair, one.share) for pair, one in zip(pairs, judged, strict=True) if one.share is not None]
    if not kept:
        raise UserError("no pair has a judgement", got=f"judge {judge.label}", expected="readable answers")
    rate = win_rate([share for _, share in kept], [pair.prompt for pair, _ in kept])
    count = tally(pairs, judged)
    people = ["first" if _first(pair) else "second" for pair, _ in kept]
    labels = [_label(share, _first(pair)) for pair, share in kept]
    return JudgeAgreement(
        data,
        judge.label,
        len(pairs),
        count.judged,
        rate.rate,
        rate.stderr,
        rate.low,
        rate.high,
        cohen_kappa(people, labels),
        count.ties / count.judged,
        None if judge.order_free else count.position_bias,
        count.unparsable,
        count.failed,
    )


def _first(pair: Comparison) -> bool:
    """Whether people's choice counts as the first text: a coin tossed by the texts themselves."""
    return int(sha(json.dumps([pair.prompt, *sorted((pair.candidate, pair.baseline))]))[0], 16) % 2 == (
        pair.candidate < pair.baseline
    )


def _label(share: float, chosen_first: bool) -> str:
    if share == 0.5:
        return "tie"
    return "first" if (share > 0.5) == chosen_first else "second"


_HEAD = (
    *("data", "judge", "pairs", "agreement", "95 % interval", "kappa"),
    *("ties", "same place twice", "no answer"),
)


def table(rows: Sequence[JudgeAgreement], style: str = "text") -> str:
    """The rows as text, md, csv or json."""
    if style == "json":
        return json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n"
    if style == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(
            out, [f.name for f in dataclasses.fields(JudgeAgreement)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows({k: _short(v) for k, v in dataclasses.asdict(row).items()} for row in rows)
        return out.getvalue()
    cells = [_HEAD, *map(_cells, rows)]
    return "".join(f"{line}\n" for line in (markdown_table if style == "md" else text_table)(cells))


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _cells(row: JudgeAgreement) -> Sequence[str]:
    bias = "cannot be" if row.position_bias is None else f"{row.position_bias:.3f}"
    return [
        row.data,
        row.judge,
        str(row.pairs),
        f"{row.agreement:.3f}",
        f"[{row.low:.3f}, {row.high:.3f}]",
        f"{row.kappa:.3f}",
        f"{row.ties:.3f}",
        bias,
        str(row.unparsable + row.failed),
    ]


def write_table(path: Path, rows: Sequence[JudgeAgreement]) -> None:
    """Write .md, .csv or .json."""
    write_text(path, table(rows, path.suffix.lstrip(".")))
