"""The report folder: written whole, read back, cleared before a new decision."""

import json
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.files.texts import json_text
from eval_harness.files.writing import write_texts
from eval_harness.gate.reports import html, junit, markdown
from eval_harness.gate.verdicts import Decision, parse_decision

PAGE, COMMENT, JUNIT, DATA = "report.html", "report.md", "junit.xml", "report.json"


def render_all(decision: Decision) -> dict[str, str]:
    """File name -> text, the machine-readable decision last."""
    return {
        PAGE: html.render(decision),
        COMMENT: markdown.render(decision),
        JUNIT: junit.render(decision),
        DATA: json_text(decision.to_json(), indent=1) + "\n",
    }


def write_reports(folder: Path, decision: Decision) -> Path:
    """Write all four files; return the page. Raises UserError: they cannot be written; none is then."""
    write_texts({folder / name: text for name, text in render_all(decision).items()})
    return folder / PAGE


def discard_reports(folder: Path) -> None:
    """Remove an earlier decision's files, so that a comparison that fails leaves no old verdict behind."""
    try:
        for name in (PAGE, COMMENT, JUNIT, DATA):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            "an earlier report cannot be removed", got=f"{folder}: {error.strerror}", remedy="--report DIR"
        ) from error


def read_decision(folder: Path) -> Decision | None:
    """The decision in a report folder, None where there is none. Raises UserError: unreadable."""
    path = folder / DATA
    if not path.is_file():
        return None
    try:
        return parse_decision(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(
            "unreadable report", got=f"{path}: {error}", remedy="eval-harness gate ..."
        ) from error
