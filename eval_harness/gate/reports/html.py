"""One self-contained page: no script, no network, light and dark; everything from a run is escaped."""

from pathlib import Path

from eval_harness.gate.reports import wording
from eval_harness.gate.reports.forest import forest
from eval_harness.gate.verdicts import Decision, Flip, Verdict

_TEMPLATE = Path(__file__).with_name("page.html")


def render(decision: Decision) -> str:
    """Render the page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        decision=decision,
        headline=wording.headline(decision),
        meaning=wording.meaning(decision),
        level=wording.level(decision),
        forest=forest(decision),
        groups=_groups(decision),
        wording=wording,
    )


def _groups(decision: Decision) -> list[tuple[Verdict, str, list[Flip]]]:
    """Shown flips per gate and kind, with the complete count of observations."""
    groups = []
    for gate in decision.gates:
        for kind, total in (("lost", gate.paired.lost), ("gained", gate.paired.gained)):
            flips = [f for f in decision.flips if (f.gate, f.change) == (gate.name, kind)]
            if flips:
                groups.append((gate, f"{total} {kind}", flips))
    return groups
