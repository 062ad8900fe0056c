"""One self-contained HTML page of a record: data, style and program inside, nothing fetched.

The data travel as JSON whose ``<``, ``>`` and ``&`` are escaped, and the program puts text into the page as
text nodes only. A content security policy admits the page's own program and style, by hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from sparsepo_plugin import __version__, files
from sparsepo_plugin.report.view import colours, summary, text
from sparsepo_plugin.run_folder import configuration
from sparsepo_plugin.run_folder.tokens import Pair, Record, Response, locate, read

MARK = b'<meta name="generator" content="sparsepo view">'
_PROGRAM = ("scale.js", "responses.js", "pairs.js", "vocabulary.js", "start.js")
_DIGITS = 5


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
    content = read(source)
    page = build(content, configuration.read(source.parent), str(source))
    files.write(target, page.encode(), MARK)
    print(f"{target}: {len(content.pairs)} pairs after step {content.step}; open it in a browser")


def build(record: Record, settings: dict[str, Any], source: str) -> str:
    """The page as text.

    Args:
      record: what to show.
      settings: the run's effective configuration, for the heading; may be empty.
      source: name of the record, for the heading.
    """
    assets = resources.files("sparsepo_plugin.report.view") / "assets"
    style = (assets / "page.css").read_text(encoding="utf-8") + colours.css()
    program = "".join((assets / name).read_text(encoding="utf-8") for name in _PROGRAM)
    parts = {
        "TITLE": html.escape(f"SparsePO: {source}"),
        "POLICY": f"default-src 'none'; script-src {_hash(program)}; style-src {_hash(style)}",
        "STYLE": style,
        "PROGRAM": program,
        "DATA": embedded(_payload(record, settings, source)),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    # One pass, so that nothing inside an inserted part is taken for a place.
    return re.sub(r"@@([A-Z]+)@@", lambda match: parts[match[1]], template)


def embedded(data: Any) -> str:
    """JSON that is safe inside a script element: ASCII, no ``<``, ``>`` or ``&``."""
    content = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _payload(record: Record, settings: dict[str, Any], source: str) -> dict[str, Any]:
    tops = {layer.key: summary.scale_top(record, layer) for layer in summary.LAYERS}
    words = summary.vocabulary(record)
    numbers = {(row["token_id"], row["text"]): number for number, row in enumerate(words)}
    shown = [{**row, "text": text.readable(row["text"], row["token_id"])} for row in words]
    return {
        "source": source,
        "version": __version__,
        "step": record.step,
        "loss": settings.get("loss"),
        "beta": settings.get("model.beta"),
        "steps": [colours.STEPS, colours.SIGNED_STEPS],
        "layers": [{**layer._asdict(), "top": _short(tops[layer.key])} for layer in summary.LAYERS],
        "words": [{key: _short(value) for key, value in row.items()} for row in shown],
        "pairs": [_pair(pair, numbers) for pair in record.pairs],
    }


def _pair(pair: Pair, numbers: dict[tuple[int, str], int]) -> dict[str, Any]:
    return {
        "index": pair.number,
        "prompt": text.clean(pair.prompt),
        "margin": _short(summary.margin(pair)),
        "sparsity": _short(summary.pair_sparsity(pair)),
        "sides": [_response(side, numbers) for side in (pair.chosen, pair.rejected)],
    }


def _response(response: Response, numbers: dict[tuple[int, str], int]) -> dict[str, Any]:
    values = {**response.values, "contribution": summary.contribution(response)}
    return {
        "words": [numbers[key] for key in zip(response.token_ids, response.tokens)],
        "joined": text.spans(response),
        "spaced": response.spaced,
        "sums": {key: _short(value) for key, value in summary.sums(response).items()},
        **{key: None if column is None else list(map(_short, column)) for key, column in values.items()},
    }


def _short(value: Any) -> Any:
    """Fewer digits for a float; 0 stays 0 and nothing else becomes 0."""
    if not isinstance(value, float):
        return value
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
