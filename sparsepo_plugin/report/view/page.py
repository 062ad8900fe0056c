"""One self-contained HTML page: data, style and program inside, nothing fetched.

The data travel as JSON whose ``<``, ``>`` and ``&`` are escaped, and the program puts text into the page as
text nodes only. A content security policy admits the page's own program and style, by hash, and pictures
that the page holds itself.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sparsepo_plugin import __version__, files
from sparsepo_plugin.report.view import blocks, colours, payload, summary
from sparsepo_plugin.run_folder import configuration
from sparsepo_plugin.run_folder.tokens import locate, read_steps

MARK = b'<meta name="generator" content="sparsepo'
_PROGRAM = ("parts.js", "scale.js", "responses.js", "picture.js", "pairs.js", "vocabulary.js", "start.js")


def view(record: str, output: str) -> None:
    """Write the page of a record and say where it is.

    Args:
      record: a tokens.jsonl, or the folder of a run that has one.
      output: the HTML file; a page written earlier is replaced.

    Raises:
      UserError: the record cannot be read, or the output is not ours to write.
    """
    source, target = locate(Path(record)), Path(output)
    files.check(target, MARK)
    run = payload.shown(payload.Recorded(str(source), read_steps(source)))
    last, settings = run.records[-1], configuration.read(source.parent)
    facts = [f"{name} {settings[key]}" for name, key in _FACTS.items() if settings.get(key) is not None]
    facts += [f"step {last.step}", f"{len(last.pairs)} pairs", str(source)]
    files.write(target, build(facts, [], [run]).encode(), MARK)
    print(f"{target}: {len(last.pairs)} pairs after step {last.step}; open it in a browser")


_FACTS = {"loss": "loss", "beta": "model.beta"}


def build(facts: Sequence[str], parts: Sequence[blocks.Part], runs: Sequence[payload.Recorded]) -> str:
    """The page as text.

    Args:
      facts: for the heading, what the page is of last.
      parts: sections before the tokens.
      runs: token records, of at most two runs; none: no tokens.
    """
    assets = resources.files("sparsepo_plugin.report.view") / "assets"
    style = (assets / "page.css").read_text(encoding="utf-8") + colours.css()
    program = "".join((assets / name).read_text(encoding="utf-8") for name in _PROGRAM)
    data = {
        "facts": facts,
        "parts": parts,
        "tokens": payload.payload(runs) if runs else None,
        "overview": _overview(runs),
    }
    filled = {
        "TITLE": html.escape(f"SparsePO: {facts[-1]}"),
        "VERSION": html.escape(__version__),
        "POLICY": f"default-src 'none'; img-src data:; script-src {_hash(program)}; style-src {_hash(style)}",
        "STYLE": style,
        "PROGRAM": program,
        "DATA": embedded(data),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    # One pass, so that nothing inside an inserted part is taken for a place.
    return re.sub(r"@@([A-Z]+)@@", lambda match: filled[match[1]], template)


def _overview(runs: Sequence[payload.Recorded]) -> list[blocks.Block]:
    """A row per run and step, without columns in which nothing stands."""
    rows = [{"run": run.label, **summary.overview(record)} for run in runs for record in run.records]
    names = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    shown = [name for name in names if name != "run" or len(runs) > 1]
    return [blocks.table(shown, [[row[name] for name in shown] for row in rows])] if rows else []


def embedded(data: Any) -> str:
    """JSON that is safe inside a script element: ASCII, no ``<``, ``>`` or ``&``."""
    content = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
