"""One self-contained page: no script, no network, light and dark; everything from a run is escaped."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from eval_harness.files.texts import clipped, printable
from eval_harness.gate.reports import wording
from eval_harness.gate.reports.forest import forest
from eval_harness.gate.verdicts import Decision, Flip, Verdict

_TEMPLATE = Path(__file__).with_name("page.html")
_LONGEST = 20_000  # characters of one text
_FLIPS = 4 << 20  # bytes of all items that flipped
_GATES = 500  # rows of the table and the plot
_LINES = 200  # facts, and notes


class _Group(NamedTuple):
    """A gate's items that flipped in one way: those shown, and the complete count of observations."""

    gate: Verdict
    kind: str
    flips: list[Flip]


def render(decision: Decision) -> str:
    """Render the page; what finds no room is counted in it, and stands in report.json."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    gates = wording.by_urgency(decision)[:_GATES] if len(decision.gates) > _GATES else decision.gates
    short = dataclasses.replace(
        decision, gates=tuple(gates), facts=decision.facts[:_LINES], notes=decision.notes[:_LINES]
    )
    groups = _groups(short)
    left_out = {
        "gates": len(decision.gates) - len(gates),
        "measurements": len(decision.facts) - len(short.facts),
        "notes": len(decision.notes) - len(short.notes),
        "items that flipped": len(decision.flips) - sum(len(group.flips) for group in groups),
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        decision=short,
        count=len(decision.gates),
        headline=wording.headline(decision),
        meaning=wording.meaning(decision),
        level=wording.level(decision),
        forest=forest(short),
        groups=groups,
        left_out=", ".join(f"{count} {what}" for what, count in left_out.items() if count),
        wording=wording,
    )


def _shown(value: Any) -> Any:
    """A value as the page shows it: no text is endless, none holds a sign that a browser would obey."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else _text(value)


def _text(text: str) -> str:
    return printable(clipped(text, _LONGEST))


def _groups(decision: Decision) -> list[_Group]:
    """Flips per gate and kind, first ones first, until the page is full."""
    every = [
        (gate, kind, total, [f for f in decision.flips if (f.gate, f.change) == (gate.name, kind)])
        for gate in decision.gates
        for kind, total in (("lost", gate.paired.lost), ("gained", gate.paired.gained))
    ]
    kept: dict[int, int] = {}
    left = _FLIPS
    for place in range(max((len(flips) for *_, flips in every), default=0)):
        for number, (*_, flips) in enumerate(every):
            if place < len(flips) and kept.get(number, 0) == place and left >= (size := _size(flips[place])):
                kept[number] = place + 1
                left -= size
    return [
        _Group(gate, f"{total} {kind}", flips[: kept[number]])
        for number, (gate, kind, total, flips) in enumerate(every)
        if number in kept
    ]


def _size(flip: Flip) -> int:
    """About how many bytes a flip takes on the page."""
    texts = [flip.prompt, wording.target(flip)]
    texts += [wording.answer(flip, outputs) for outputs in (flip.baseline_outputs, flip.candidate_outputs)]
    texts += [str(part) for row in (*flip.baseline_evidence, *flip.candidate_evidence) for part in row[:2]]
    return 600 + sum(len(escape(_text(text)).encode("utf-8", "replace")) for text in texts)
