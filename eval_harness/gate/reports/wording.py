"""The words and numbers that every report shares."""

from itertools import zip_longest
from typing import Any

from eval_harness.files.tables import text_table
from eval_harness.gate.verdicts import KEPT, REGRESSED, UNDECIDED, Decision, Flip, Verdict
from eval_harness.stats.paired import BETTING

MEANING = {
    KEPT: "a drop as large as the margin is excluded",
    REGRESSED: "worse than the baseline, and a drop as large as the margin is not excluded",
    UNDECIDED: "the items neither exclude a drop as large as the margin nor show that there is one",
}


# Where every blocking gate asks for superiority (margin 0).
BETTER = {
    KEPT: "it is better than the baseline",
    REGRESSED: "it is worse than the baseline",
    UNDECIDED: "the items show neither that it is better nor that it is worse",
}


def meaning(decision: Decision) -> str:
    """What the verdict says about the candidate."""
    asked = {gate.margin == 0 for gate in decision.gates if gate.blocking}
    return (BETTER if asked == {True} else MEANING)[decision.verdict]


def headline(decision: Decision) -> str:
    """One sentence: what was decided, by which gates."""
    blocking = [gate for gate in decision.gates if gate.blocking]
    deciding = [gate.name for gate in blocking if gate.verdict == decision.verdict]
    if decision.verdict == KEPT:
        return f"All {len(blocking)} blocking gates are kept." if len(blocking) > 1 else "The gate is kept."
    shown = ", ".join(deciding[:4]) + (", ..." if len(deciding) > 4 else "")
    what = "regressed" if decision.verdict == REGRESSED else "undecided"
    return f"{len(deciding)} of {len(blocking)} blocking gates {what}: {shown}."


def by_urgency(decision: Decision) -> list[Verdict]:
    """Gates as a short report shows them: what decides first, in the order of the file where equal."""
    order = (REGRESSED, UNDECIDED, KEPT)
    return sorted(decision.gates, key=lambda gate: (not gate.blocking, order.index(gate.verdict)))


def level(decision: Decision) -> str:
    """Name of the interval, both of whose ends hold with error alpha: alpha 0.05 gives `90 % interval`."""
    return f"{100 * (1 - 2 * decision.alpha):g} % interval"


def interval(gate: Verdict) -> str:
    """The interval of the difference."""
    return f"[{gate.paired.low:+.3f}, {gate.paired.high:+.3f}]"


def p_value(value: float) -> str:
    """Three digits, or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def items(gate: Verdict) -> str:
    """Item count, with observations and clusters where they differ."""
    parts = [str(gate.items)]
    if gate.paired.n != gate.items:
        parts.append(f"{gate.paired.n} observations")
    if gate.paired.clusters != gate.paired.n:
        parts.append(f"{gate.paired.clusters} clusters")
    return ", ".join(parts)


def remarks(gate: Verdict) -> list[str]:
    """What a reader must know besides the numbers, most urgent first."""
    texts = []
    if gate.needed is not None:
        texts.append(f"about {gate.needed} items would decide it, {gate.needed - gate.items} more")
    elif gate.verdict == UNDECIDED and gate.paired.method != BETTING:
        texts.append("more items of the same kind would not decide it")
    if not gate.blocking:
        texts.append("not blocking")
    return texts + list(gate.notes)


def rows(decision: Decision) -> list[tuple[str, ...]]:
    """Head and one row per gate, for every table of a decision."""
    head = ("gate", "verdict", "difference", level(decision), "margin", "baseline", "candidate", "items")
    return [head, *map(row, decision.gates)]


def row(gate: Verdict) -> tuple[str, ...]:
    """One gate's row of a table."""
    return (
        *(gate.name, gate.verdict, f"{gate.paired.difference:+.3f}", interval(gate), f"{gate.margin:g}"),
        *(f"{gate.paired.baseline:.3f}", f"{gate.paired.candidate:.3f}", items(gate)),
    )


def table(decision: Decision) -> str:
    """The decision for a terminal."""
    lines = text_table(rows(decision))
    for number, gate in enumerate(decision.gates, start=1):
        detail = "; ".join([tests(gate), *remarks(gate)])
        lines[number] += f"\n    {detail}"
    models = f"{decision.candidate.label} against {decision.baseline.label}"
    first = f"{decision.verdict}  {models}: {headline(decision)}"
    measured = (f"{name}: {text}" for name, text in decision.facts)
    return "\n".join([first, *lines, *measured, *(f"note: {note}" for note in decision.notes)])


def tests(gate: Verdict) -> str:
    """Method, its p and the change counts."""
    pair = gate.paired
    counts = f"{pair.lost} lost, {pair.gained} gained (discordance {pair.discordance:.3f}"
    effect = f", design effect {pair.design_effect:.2f}" if pair.clusters != pair.n else ""
    return f"{counts}{effect}); p of a drop {p_value(pair.p)}, Holm {p_value(gate.p_holm)} ({pair.method})"


def target(flip: Flip) -> str:
    """The right answer; of a choice given by its number, the choice too."""
    if flip.target.isdecimal() and int(flip.target) < len(flip.choices):
        return f"{flip.target}: {flip.choices[int(flip.target)].strip()}"
    return flip.target


def side_by_side(flip: Flip) -> list[tuple[list[Any] | None, list[Any] | None]]:
    """Baseline's and candidate's weakest sentences in rows, None where one side has fewer."""
    return list(zip_longest(flip.baseline_evidence, flip.candidate_evidence))


def evidence(shown: list[Any] | None) -> str:
    """A summary sentence, its score and the document's nearest sentence, in one line."""
    return "" if shown is None else f"{shown[2]:.3f}  {shown[1]}  (document: {shown[0]})"


def orders(flip: Flip) -> list[tuple[str, str]]:
    """What the judge said in either order; empty without a judge."""
    places = ("candidate's text first", "baseline's text first")
    return [(place, _preferred(share)) for place, share in zip(places, flip.orders, strict=False)]


def _preferred(share: float | None) -> str:
    if share is None:
        return "no judgement"
    who = "a tie" if share == 0.5 else "prefers the candidate" if share > 0.5 else "prefers the baseline"
    return f"{who} (share of the candidate {share:g})"


def answer(flip: Flip, outputs: list[Any]) -> str:
    """One model's output: the generated text, or the log-probability of every choice, best first marked."""
    if not flip.choices or len(flip.choices) != len(outputs):
        return "\n".join(str(output) for output in outputs)
    values = [float(output[0]) for output in outputs]
    best = max(values)
    return "\n".join(
        f"{'>' if value == best else ' '} {value:9.2f} nats  {choice.strip()}"
        for value, choice in zip(values, flip.choices, strict=True)
    )
