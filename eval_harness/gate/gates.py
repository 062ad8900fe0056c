"""Gates as YAML: which tasks must not get worse, by how much, with what power."""

import fnmatch
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from eval_harness.errors import UserError, near
from eval_harness.files.configs import (
    AsTuple,
    Config,
    Text,
    parse_config,
    read_config,
)
from eval_harness.stats import power
from eval_harness.types import SuiteResult

ALPHA, MARGIN = 0.05, 0.05


Margin = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
Alpha = Annotated[float, Field(gt=0, lt=0.5, description="a number between 0 and 0.5")]
Discordance = Annotated[float | None, Field(gt=0, le=1, description="a number between 0 and 1")]
Effect = Annotated[float, Field(ge=1, lt=1e6, description="a number between 1 and 1e+06")]


def _name_and_filter(metric: str | None) -> str | None:
    if metric is not None and "," not in metric:
        raise ValueError(metric)
    return metric


class Gate(Config):
    """One decision; the items of all its tasks are pooled.

    `tasks` are names or patterns with a star, by default the gate's own name. `metric` None: the main one of
    these tasks. `margin` is the largest acceptable drop, in the metric's unit. `items`, `discordance` (share
    of items that two equally good models answer differently; for `graded` scores the mean squared
    difference), `design_effect` (items per independent item, at least 1), `repeats` (samples an item) and
    `correlation` (of two repeats' differences of an item) are for the power that `validate` computes.
    `superior`: the candidate must be better, the margin is 0.
    """

    name: Text
    tasks: Annotated[tuple[str, ...], AsTuple] = Field(
        min_length=1, description="a list of task names or patterns"
    )
    metric: Annotated[str | None, AfterValidator(_name_and_filter)] = Field(
        None, description='"name,filter", e.g. "acc,none"'
    )
    margin: Margin = MARGIN
    blocking: bool = True
    items: int | None = Field(None, ge=1, description="a positive integer")
    discordance: Discordance = None
    design_effect: Effect = 1.0
    repeats: int = Field(1, ge=1, description="a positive integer")
    correlation: float = Field(1.0, ge=0, le=1, description="a number from 0 to 1")
    graded: bool = False
    superior: bool = False

    def select(self, known: list[str]) -> list[str]:
        """Names among `known` that the gate covers, in their order.

        Raises:
          UserError: a name or pattern without any task.
        """
        for pattern in self.tasks:
            if not fnmatch.filter(known, pattern):
                raise UserError(
                    f"gate {self.name}: no such task in the run",
                    got=pattern,
                    expected=near(pattern, known),
                    remedy="measure it in both runs, or correct the gates file",
                )
        return [task for task in known if any(fnmatch.fnmatchcase(task, p) for p in self.tasks)]


class GateFile(Config):
    """Gates that share the level alpha; Holm's correction is over all of them."""

    alpha: Alpha
    gates: tuple[Gate, ...]


class _File(Config):
    """A gates file; `margin` and `discordance` are those of every gate that names none."""

    version: Literal[1]
    title: Text = ""
    alpha: Alpha = ALPHA
    margin: Margin = MARGIN
    discordance: Discordance = None
    gates: dict[Text, Any]


def load_gates(name: str) -> GateFile:
    """Load a shipped gates file by name or any by path (ending in .yaml or .yml).

    Raises:
      UserError: no such file, bad YAML, an unknown or missing key, a value out of range, no blocking gate.
    """
    return parse_gates(read_config("gates", name, "gates file")[0])


def parse_gates(raw: object) -> GateFile:
    """Turn parsed YAML into gates. Raises UserError naming gate and key."""
    if not isinstance(raw, dict) or raw.get("version") != 1 or not isinstance(raw.get("gates"), dict):
        got = sorted(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise UserError("gates file", got=got, expected="keys version: 1 and gates: {name: {...}}")
    file = parse_config(_File, raw, "gates file")
    shared = {key: raw[key] for key in ("margin", "discordance") if key in raw}
    gates = tuple(_parse_gate(str(name), spec, shared) for name, spec in file.gates.items())
    if not any(gate.blocking for gate in gates):
        raise UserError("gates file", got=f"{len(gates)} gates, none blocking", expected="at least one")
    return GateFile(alpha=file.alpha, gates=gates)


def _parse_gate(name: str, spec: object, shared: dict[str, Any]) -> Gate:
    if not isinstance(spec, dict | None):
        raise UserError(f"gate {name}", got=spec, expected="a mapping of keys, or nothing")
    gate = parse_config(Gate, {"tasks": [name], **shared, **(spec or {})}, f"gate {name}", name=name)
    return gate.model_copy(update={"margin": 0.0}) if gate.superior else gate


def default_gates(result: SuiteResult, margin: float, alpha: float) -> GateFile:
    """One gate per task and main metric of a run, for a comparison without a gates file."""
    for flag, value, top in (("--margin", margin, 1), ("--alpha", alpha, 0.5)):
        if not 0 < value < top:
            raise UserError(flag, got=value, expected=f"a number between 0 and {top:g}")
    scores = [s for s in result.scores if s.main and not s.is_group]
    several = {s.task for s in scores if sum(other.task == s.task for other in scores) > 1}
    gates = []
    for score in scores:
        name = f"{score.task} {score.metric}" if score.task in several else score.task
        spec = {"tasks": [score.task], "metric": score.metric, "margin": margin}
        gates.append(parse_config(Gate, spec, f"gate {name}", name=name))
    return GateFile(alpha=alpha, gates=tuple(gates))


def check_power(file: GateFile, counts: dict[str, int] | None, allow_low: bool) -> list[str]:
    """One line per gate with its power: P(KEPT | nothing changed).

    Args:
      file: the gates.
      counts: documents per task of a run, used instead of the gates' own `items`.
      allow_low: accept power below 0.8.

    Raises:
      UserError: a gate's power is below 0.8; its item count or discordance is unknown.
    """
    lines = []
    for gate in file.gates:
        if gate.superior:
            lines.append(f"{gate.name}: superiority; its power depends on how much better the candidate is")
            continue
        items = gate.items
        if counts is not None:
            items = sum(counts[task] for task in gate.select(list(counts)))
        if items is None or gate.discordance is None:
            raise UserError(
                f"gate {gate.name}: power unknown",
                got=f"items {items}, discordance {gate.discordance}",
                expected="both",
                remedy="add them to the gate (`compare` prints discordance), or pass --run RUN for items",
            )
        rest = (file.alpha, gate.design_effect, gate.graded, gate.repeats, gate.correlation)
        reached = power.keep_power(items, gate.discordance, gate.margin, *rest)
        enough = power.items_for_power(gate.discordance, gate.margin, *rest)
        if reached < power.POWER and not allow_low:
            margin = power.margin_for_power(items, gate.discordance, *rest)
            raise UserError(
                f"gate {gate.name}: too weak",
                got=f"power {reached:.2f} with {items} items, margin {gate.margin:g}",
                expected=f"at least {power.POWER}",
                remedy=f"{enough} items, or margin {margin:g}, or --allow-low-power",
            )
        lines.append(
            f"{gate.name}: power {reached:.2f} with {items} items, margin {gate.margin:g}, discordance "
            f"{gate.discordance:g}, design effect {gate.design_effect:g}{_repeats(gate)}; "
            f"{enough} items give {power.POWER}" + ("" if gate.blocking else "; not blocking")
        )
    return lines


def _repeats(gate: Gate) -> str:
    return f", {gate.repeats} repeats of correlation {gate.correlation:g}" if gate.repeats > 1 else ""
