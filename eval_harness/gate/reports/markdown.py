"""A decision for a pull request's comment or a job summary: GitHub's Markdown."""

import html

from eval_harness.files.tables import markdown_table
from eval_harness.gate.reports import wording
from eval_harness.gate.verdicts import KEPT, REGRESSED, UNDECIDED, Decision, Flip

_SIGNS = {KEPT: "✅", REGRESSED: "❌", UNDECIDED: "❔"}
_SHOWN = 3  # flips per gate; the page has more
_SPECIAL = frozenset("\\`*_[]|~@")
_LONGEST = 1500  # characters of a prompt or an output; comments hold 65,536


def render(decision: Decision) -> str:
    """Render the comment."""
    models = f"{_cell(decision.candidate.label)} against {_cell(decision.baseline.label)}"
    head, *body = wording.rows(decision)
    rows = [
        (_cell(name), f"{_SIGNS[gate.verdict]} {verdict}", *rest)
        for gate, (name, verdict, *rest) in zip(decision.gates, body, strict=True)
    ]
    lines = [
        f"## {_SIGNS[decision.verdict]} {decision.verdict}: {models}",
        "",
        _cell(wording.headline(decision)),
        "",
        *markdown_table([head, *rows]),
        "",
    ]
    for gate in decision.gates:
        remarks = [*wording.remarks(gate), wording.tests(gate)]
        lines.append(f"- **{_cell(gate.name)}**: {_cell('; '.join(remarks))}")
    lines += [f"- {_cell(name)}: {_cell(text)}" for name, text in decision.facts]
    lines += [f"- Note: {_cell(note)}" for note in decision.notes]
    for gate in decision.gates:
        shown = [f for f in decision.flips if f.gate == gate.name][:_SHOWN]
        if shown:
            summary = (
                f"{_cell(gate.name)}: {len(shown)} of {gate.paired.lost} lost and {gate.paired.gained} gained"
            )
            lines += ["", f"<details><summary>{summary}</summary>", ""]
            lines += [part for flip in shown for part in _flip(flip)]
            lines.append("</details>")
    return "\n".join(lines) + "\n"


def _flip(flip: Flip) -> list[str]:
    parts = (
        ("prompt", flip.prompt),
        ("target", wording.target(flip)),
        ("baseline", wording.answer(flip, flip.baseline_outputs)),
        ("candidate", wording.answer(flip, flip.candidate_outputs)),
    )
    weakest = [
        (f"weakest of the {side}", wording.evidence(sentence))
        for row in wording.side_by_side(flip)
        for side, sentence in zip(("baseline", "candidate"), row)
        if sentence
    ]
    body = "\n".join(f"{name}: {_clip(text)}" for name, text in (*parts, *weakest))
    # Inside <pre> nothing is Markdown; a blank line would end no HTML block of this kind.
    return [f"<pre>{flip.change}: {html.escape(flip.task)} {flip.doc_id}\n{html.escape(body)}</pre>", ""]


def _clip(text: str) -> str:
    return text if len(text) <= _LONGEST else f"[{len(text) - _LONGEST} characters cut] {text[-_LONGEST:]}"


def _cell(text: str) -> str:
    """Text that is nothing but text, in a table too."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"&#{ord(sign)};" if sign in _SPECIAL else sign for sign in plain)
