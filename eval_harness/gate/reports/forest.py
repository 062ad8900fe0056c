"""Forest plot of a decision as inline SVG: one row per gate, no script, no font, no link."""

import math
from collections.abc import Callable

from markupsafe import Markup

from eval_harness.files.texts import printable
from eval_harness.gate.verdicts import KEPT, REGRESSED, Decision, Verdict

# Names stand above their bars, so that the plot is readable at the width of a telephone.
_WIDTH, _SIDE, _ROW, _TOP = 420, 22, 46, 34
_NAME = 40  # characters
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between low and high, 0 among them, at most about eight."""
    step = next((s for s in _STEPS if (high - low) / s <= 8), 1.0)
    return [round(i * step, 3) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def forest(decision: Decision) -> Markup:
    """Difference and interval per gate, its margin as a dashed tick, 0 as a line.

    The marker's shape tells the verdict without colour: circle KEPT, square REGRESSED, diamond UNDECIDED.
    """
    lows = [min(gate.paired.low, -gate.margin) for gate in decision.gates]
    highs = [gate.paired.high for gate in decision.gates]
    low, high = min([*lows, 0.0]), max([*highs, 0.0])
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return round(_SIDE + (value - low) / (high - low) * (_WIDTH - 2 * _SIDE), 1)

    bottom = _TOP + _ROW * len(decision.gates)
    parts = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x(t), _TOP - 8, bottom)
        + Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            x(t), _TOP - 14, f"{t:+g}" if t else "0"
        )
        for t in ticks(low, high)
    ]
    parts.append(
        Markup('<line class="zero" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x(0), _TOP - 8, bottom)
    )
    for number, gate in enumerate(decision.gates):
        parts.append(_row(gate, _TOP + _ROW * number + 30, x))
    title = "Difference, candidate minus baseline, with its interval, per gate"
    head = Markup('<svg class="forest" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        _WIDTH, bottom + 8, title
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def _row(gate: Verdict, y: int, at: Callable[[float], float]) -> Markup:
    shown = printable(gate.name)
    name = shown if len(shown) <= _NAME else shown[: _NAME - 1] + "…"
    low, high, centre = at(gate.paired.low), at(gate.paired.high), at(gate.paired.difference)
    marks = {
        KEPT: Markup('<circle cx="{0}" cy="{1}" r="5.5"/>').format(centre, y),
        REGRESSED: Markup('<rect x="{0}" y="{1}" width="11" height="11"/>').format(centre - 5.5, y - 5.5),
    }
    diamond = Markup('<path d="M{0} {1}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"/>').format(centre, y - 6.5)
    return (
        Markup('<text class="name" x="0" y="{}">{}</text>').format(y - 16, name)
        + Markup('<line class="margin" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            at(-gate.margin), y - 11, y + 11
        )
        + Markup('<g class="{}"><line class="range" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            gate.verdict.lower(), low, high, y, y
        )
        + marks.get(gate.verdict, diamond)
        + Markup('<text class="word" x="{}" y="{}" text-anchor="end">{}</text></g>').format(
            _WIDTH, y - 16, gate.verdict
        )
    )
