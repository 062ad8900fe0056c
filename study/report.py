"""The report: derived CSV files, verdicts, plots, and the tables inside docs/study.md.

Everything is made from the CSV files of the other parts; the words of the page are written by hand, the
numbers stand between markers and are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from study import page, pictures
from study.claims import blind_domains, claims, judged
from study.domain import DOMAINS
from study.rows import Row, read, show, write
from study.scales import PREFERENCES, SENTIMENT
from study.summarise import frontier_rows, weight_rows

MEASURED = (
    "sentiment", "sentiment_tuning", "sentiment_reference", "sentiment_judges", "sentiment_tokens",
    "sentiment_longer", "domains", *DOMAINS, *(f"{name}_test" for name in DOMAINS), "capability",
)  # fmt: skip
MOST_NATS = 3.0  # right end of the plots' KL axis


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Write a derived CSV anew and return its rows as they are read back."""
    made = [{name: show(value) for name, value in row.items()} for row in rows]
    write(path, made, list(dict.fromkeys(name for row in made for name in row)))
    return read(path)


def derive(out: Path, scale_name: str) -> dict[str, list[Row]]:
    """Read what was measured; write what follows from it.

    Raises:
      UserError: sentiment has no rows yet.
    """
    tables = {name: read(out / f"{name}.csv") for name in MEASURED}
    if not tables["sentiment"]:
        raise UserError(
            f"{out / 'sentiment.csv'}: got no rows, expected the sweep; run the part sentiment first"
        )
    budgets, end = SENTIMENT[scale_name].budgets, str(SENTIMENT[scale_name].longer[-1])
    frontier = frontier_rows(tables["sentiment"], tables["sentiment_reference"], budgets)
    tables["sentiment_frontier"] = write_rows(out / "sentiment_frontier.csv", frontier)
    tables["sentiment_weights"] = write_rows(out / "sentiment_weights.csv", weight_rows(tables["sentiment"]))
    longer = weight_rows(tables["sentiment_longer"], "step")
    tables["sentiment_longer_weights"] = write_rows(out / "sentiment_longer_weights.csv", longer)
    last = f"{PREFERENCES[scale_name].budgets[-1]:g}"
    made = claims([f"{budget:g}" for budget in budgets], last, end, blind_domains(tables["domains"]))
    verdicts = judged(made, tables)
    tables["verdicts"] = write_rows(out / "verdicts.csv", verdicts)
    return tables


def report(out: Path, where: Path, scale_name: str) -> None:
    """Write derived CSV files, plots, and the tables of the page.

    Args:
      out: folder of the CSV files; plots go there too.
      where: the page; made with tables only where there is none.
      scale_name: whose budgets are shown.
    """
    tables = derive(out, scale_name)
    written = pictures.draw(out, tables, MOST_NATS)
    old = where.read_text(encoding="utf-8") if where.is_file() else page.skeleton()
    write_text(where, page.filled(old, tables))
    print(f"{where}: {len(tables['verdicts'])} verdicts; {len(written)} plot files in {out}", flush=True)
