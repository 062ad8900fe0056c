"""Gates as YAML: which tasks must not get worse, by how much, with what power."""

import dataclasses
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.reasoning.preset import preset_folder
from eval_harness.run.registry import near
from eval_harness.stats import power
from eval_harness.types import SuiteResult

ALPHA, MARGIN = 0.05, 0.05
_FILE_KEYS = {"version", "title", "alpha", "margin", "discordance", "gates"}


@dataclass(frozen=True)
class Gate:
    """One decision; the items of all its tasks are pooled.

    `tasks` are names or patterns with a star. `metric` None: the one that the preset names for these tasks.
    `margin` is the largest acceptable drop, in the metric's unit. `items`, `discordance` (share of items that
    two equally good models answer differently; for `graded` scores the mean squared difference) and
    `design_effect` (items per independent item, at least 1) are for the power that `validate` computes.
    `superior`: the candidate must be better, the margin is 0.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str | None = None
    margin: float = MARGIN
    blocking: bool = True
    items: int | None = None
    discordance: float | None = None
    design_effect: float = 1.0
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


@dataclass(frozen=True)
class GateFile:
    """Gates that share the level alpha; Holm's correction is over all of them."""

    alpha: float
    gates: tuple[Gate, ...]


def gate_names() -> list[str]:
    """Names of the shipped gates files."""
    return sorted(path.stem for path in (preset_folder().parent / "gates").glob("*.yaml"))


def load_gates(name: str) -> GateFile:
    """Load a shipped gates file by name or any by path (ending in .yaml or .yml).

    Raises:
      UserError: no such file, bad YAML, an unknown or missing key, a value out of range, no blocking gate.
    """
    import yaml

    by_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if by_path else preset_folder().parent / "gates" / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            "no such gates file", got=name, expected=f"a YAML file, or {near(name, gate_names())}"
        )
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_unique_keys())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("gates file is not valid YAML", got=f"{path.name}: {error}") from error
    return parse_gates(raw)


def _unique_keys() -> Any:
    """A safe YAML loader that refuses a key given twice: a gate must not vanish behind its namesake."""
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with unique keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader


def parse_gates(raw: object) -> GateFile:
    """Turn parsed YAML into gates; strict about keys and ranges. Raises UserError naming gate and key."""
    if not isinstance(raw, dict) or raw.get("version") != 1 or not isinstance(raw.get("gates"), dict):
        got = sorted(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise UserError("gates file", got=got, expected="keys version: 1 and gates: {name: {...}}")
    if unknown := sorted(set(map(str, raw)) - _FILE_KEYS):
        raise UserError(
            "gates file: unknown key", got=unknown[0], expected=near(unknown[0], sorted(_FILE_KEYS))
        )
    alpha = _number(raw.get("alpha", ALPHA), "gates file: alpha", 0, 0.5)
    shared = {key: raw[key] for key in ("margin", "discordance") if key in raw}
    gates = tuple(
        _parse_gate(str(name), {**shared, **_mapping(spec, name)}) for name, spec in raw["gates"].items()
    )
    if not any(gate.blocking for gate in gates):
        raise UserError("gates file", got=f"{len(gates)} gates, none blocking", expected="at least one")
    return GateFile(alpha, gates)


def _mapping(spec: object, name: object) -> dict[str, Any]:
    if spec is None:
        return {}
    if not isinstance(spec, dict):
        raise UserError(f"gate {name}", got=spec, expected="a mapping of keys, or nothing")
    return spec


def _parse_gate(name: str, raw: dict[str, Any]) -> Gate:
    known = {field.name for field in dataclasses.fields(Gate)} - {"name"}
    if unknown := sorted(set(map(str, raw)) - known):
        raise UserError(f"gate {name}: unknown key", got=unknown[0], expected=near(unknown[0], sorted(known)))
    tasks = raw.get("tasks", [name])
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise UserError(f"gate {name}: tasks", got=tasks, expected="a list of task names or patterns")
    metric = raw.get("metric")
    if metric is not None and not (isinstance(metric, str) and "," in metric):
        raise UserError(f"gate {name}: metric", got=metric, expected='"name,filter", e.g. "acc,none"')
    for key in ("blocking", "graded", "superior"):
        if not isinstance(raw.get(key, True), bool):
            raise UserError(f"gate {name}: {key}", got=raw[key], expected="true or false")
    superior = raw.get("superior", False)
    items = raw.get("items")
    if items is not None and (isinstance(items, bool) or not isinstance(items, int) or items < 1):
        raise UserError(f"gate {name}: items", got=items, expected="a positive integer")
    share = raw.get("discordance")
    return Gate(
        name=name,
        tasks=tuple(tasks),
        metric=metric,
        margin=0.0 if superior else _number(raw.get("margin", MARGIN), f"gate {name}: margin", 0, 1),
        blocking=raw.get("blocking", True),
        items=items,
        discordance=None if share is None else _number(share, f"gate {name}: discordance", 0, 1.000001),
        design_effect=_number(raw.get("design_effect", 1.0), f"gate {name}: design_effect", 0.999999, 1e6),
        graded=raw.get("graded", False),
        superior=superior,
    )


def _number(value: object, what: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise UserError(what, got=value, expected=f"a number between {low:g} and {high:g}")
    return float(value)


def default_gates(result: SuiteResult, margin: float, alpha: float) -> GateFile:
    """One gate per task and main metric of a run, for a comparison without a gates file."""
    _number(margin, "--margin", 0, 1)
    _number(alpha, "--alpha", 0, 0.5)
    scores = [s for s in result.scores if s.normalised is not None and not s.task.startswith("group:")]
    several = {s.task for s in scores if sum(other.task == s.task for other in scores) > 1}
    gates = [
        Gate(f"{s.task} {s.metric}" if s.task in several else s.task, (s.task,), s.metric, margin)
        for s in scores
    ]
    return GateFile(alpha, tuple(gates))


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
        rest = (file.alpha, gate.design_effect, gate.graded)
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
            f"{gate.discordance:g}, design effect {gate.design_effect:g}; {enough} items give {power.POWER}"
            + ("" if gate.blocking else "; not blocking")
        )
    return lines
