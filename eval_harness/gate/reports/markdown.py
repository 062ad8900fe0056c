"""A decision for a pull request's comment or a job summary: GitHub's Markdown, no longer than it may be."""

import html
from collections.abc import Sequence

from eval_harness.files.tables import markdown_table
from eval_harness.files.texts import clipped, printable
from eval_harness.gate.reports import wording
from eval_harness.gate.verdicts import KEPT, REGRESSED, UNDECIDED, Decision, Flip, Verdict

LIMIT = 65_536  # bytes; GitHub counts the characters of a comment, a job summary takes 1 MiB
_SIGNS = {KEPT: "✅", REGRESSED: "❌", UNDECIDED: "❔"}
_SHOWN = 3  # flips per gate; the page has more
_SPECIAL = frozenset("\\`*_[]|~@")
_LONGEST = 1500  # characters of a prompt, an output or a remark
_CLOSING = 400  # bytes kept free for the line on what was left out
# Parts of the room after which a kind of line ends, so that each has some.
_TABLE, _REMARKS, _NOTES = 0.35, 0.6, 0.7


def render(decision: Decision) -> str:
    """Render the comment; where it would be too long, what decides comes first and the rest is counted."""
    room = _Room(LIMIT - _CLOSING)
    models = f"{_cell(decision.candidate.label)} against {_cell(decision.baseline.label)}"
    room.add(f"## {_SIGNS[decision.verdict]} {decision.verdict}: {models}", "")
    room.add(_cell(wording.headline(decision)), "")
    head, *_ = wording.rows(decision)
    urgent = wording.by_urgency(decision)
    rows = {gate.name: _row(gate) for gate in decision.gates}
    room.add(*markdown_table([head]))
    room.add_some(
        "gates in the table", [g.name for g in urgent], [g.name for g in decision.gates], rows, _TABLE
    )
    room.add("")
    remarks = {gate.name: _remark(gate) for gate in decision.gates}
    room.add_some("remarks", [g.name for g in urgent], [g.name for g in decision.gates], remarks, _REMARKS)
    facts = [f"- {_cell(name)}: {_cell(text)}" for name, text in decision.facts]
    notes = {str(n): [line] for n, line in enumerate(facts + [f"- Note: {_cell(n)}" for n in decision.notes])}
    room.add_some("measurements and notes", list(notes), list(notes), notes, _NOTES)
    for gate in urgent if room.left_out else decision.gates:
        room.add_flips(gate, [f for f in decision.flips if f.gate == gate.name][:_SHOWN])
    return "\n".join([*room.lines, *room.closing()]) + "\n"


class _Room:
    """Lines up to a number of bytes, and what found no room."""

    def __init__(self, most: int) -> None:
        """Start empty."""
        self.lines: list[str] = []
        self.left_out: dict[str, int] = {}
        self._most = self._free = most

    def add(self, *lines: str, spare: float = 0.0) -> bool:
        """Add lines if they all fit and leave a part `spare` of the room."""
        size = sum(len(line.encode("utf-8")) + 1 for line in lines)
        if size > self._free - spare * self._most:
            return False
        self._free -= size
        self.lines += lines
        return True

    def add_some(
        self, what: str, urgent: Sequence[str], order: Sequence[str], blocks: dict[str, list[str]], end: float
    ) -> None:
        """Add as many blocks as fit, chosen by urgency and shown in order; the others are counted."""
        start = len(self.lines)
        chosen = {key for key in urgent if self.add(*blocks[key], spare=1 - end)}
        self.lines[start:] = [line for key in order if key in chosen for line in blocks[key]]
        self._leave(what, len(order) - len(chosen))

    def add_flips(self, gate: Verdict, flips: list[Flip]) -> None:
        """Add a gate's items that flipped, as many as fit."""
        for count in range(len(flips), 0, -1):
            shown = f"{count} of {gate.paired.lost} lost and {gate.paired.gained} gained"
            head = ["", f"<details><summary>{_cell(gate.name)}: {shown}</summary>", ""]
            body = [part for flip in flips[:count] for part in _flip(flip)]
            if self.add(*head, *body, "</details>"):
                self._leave("items that flipped", len(flips) - count)
                return
        self._leave("items that flipped", len(flips))

    def _leave(self, what: str, count: int) -> None:
        if count:
            self.left_out[what] = self.left_out.get(what, 0) + count

    def closing(self) -> list[str]:
        """What was left out."""
        if not self.left_out:
            return []
        counts = ", ".join(f"{count} {what}" for what, count in self.left_out.items())
        return ["", f"Left out for length: {counts}. `report.json` holds all of them."]


def _row(gate: Verdict) -> list[str]:
    name, verdict, *rest = wording.row(gate)
    return [f"| {' | '.join([_cell(name), f'{_SIGNS[gate.verdict]} {verdict}', *rest])} |"]


def _remark(gate: Verdict) -> list[str]:
    remarks = [*wording.remarks(gate), wording.tests(gate)]
    return [f"- **{_cell(gate.name)}**: {_cell('; '.join(remarks))}"]


def _flip(flip: Flip) -> list[str]:
    parts = (
        ("prompt", flip.prompt),
        ("target", wording.target(flip)),
        ("baseline", wording.answer(flip, flip.baseline_outputs)),
        ("candidate", wording.answer(flip, flip.candidate_outputs)),
    )
    said = [(f"judge, {place}", verdict) for place, verdict in wording.orders(flip)]
    weakest = [
        (f"weakest of the {side}", wording.evidence(sentence))
        for row in wording.side_by_side(flip)
        for side, sentence in zip(("baseline", "candidate"), row)
        if sentence
    ]
    body = "\n".join(f"{name}: {_text(text)}" for name, text in (*parts, *said, *weakest))
    # Inside <pre> nothing is Markdown; a blank line would end no HTML block of this kind.
    return [
        f"<pre>{flip.change}: {html.escape(_text(flip.task))} {flip.doc_id}\n{html.escape(body)}</pre>",
        "",
    ]


def _text(text: str) -> str:
    return printable(clipped(text, _LONGEST))


def _cell(text: str) -> str:
    """Text that is nothing but text, in a table too."""
    plain = html.escape(" ".join(_text(text).split()), quote=False)
    return "".join(f"&#{ord(sign)};" if sign in _SPECIAL else sign for sign in plain)
