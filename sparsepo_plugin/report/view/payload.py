"""What the page shows of token records, as JSON: tokens once, their values for every step and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsepo_plugin.report.view import colours, summary, text
from sparsepo_plugin.run_folder.tokens import Pair, Record, Response

_DIGITS = 5
# Numbers of all steps and runs that a page takes, about eight bytes each; beyond, steps are left out.
_NUMBERS = 3_000_000


class Recorded(NamedTuple):
    """The token records of a run in order of their steps, and what the run is called."""

    label: str
    records: list[Record]


def shown(run: Recorded, runs: int = 1) -> Recorded:
    """The last record and earlier ones of the same tokens, evenly spread, as many as a page takes."""
    last = run.records[-1]
    same = [record for record in run.records if _tokens(record) == _tokens(last)]
    numbers = sum(len(side.tokens) for pair in last.pairs for side in pair[2:]) * len(summary.LAYERS)
    room = min(len(same), max(1, _NUMBERS // max(1, numbers * runs)))
    places = {round(number * (len(same) - 1) / max(1, room - 1)) for number in range(room)}
    kept = [same[place] for place in sorted(places)] if room > 1 else [last]
    return run._replace(records=kept)


def first_pairs(run: Recorded, runs: int = 1) -> Recorded:
    """The first pairs, as many as a page takes for one step."""
    kept, numbers = 0, 0
    for pair in run.records[-1].pairs:
        numbers += sum(len(side.tokens) for side in pair[2:]) * len(summary.LAYERS) * runs
        if numbers > _NUMBERS and kept:
            break
        kept += 1
    return run._replace(records=[record._replace(pairs=record.pairs[:kept]) for record in run.records])


def _tokens(record: Record) -> list[tuple[int, list[int], list[int]]]:
    return [(pair.number, pair.chosen.token_ids, pair.rejected.token_ids) for pair in record.pairs]


def payload(runs: Sequence[Recorded]) -> dict[str, Any]:
    """JSON of one or two runs; pairs of the same number and prompt stand together."""
    records = [record for run in runs for record in run.records]
    tables = [[summary.vocabulary(record) for record in run.records] for run in runs]
    words = {(row["token_id"], row["text"]): 0 for steps in tables for table in steps for row in table}
    for number, key in enumerate(words):
        words[key] = number
    cards: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        for versions in zip(*(record.pairs for record in run.records)):
            key = versions[-1].number, versions[-1].prompt
            cards.setdefault(key, []).append({"run": number, **_pair(versions, words)})
    return {
        "colours": [colours.STEPS, colours.SIGNED_STEPS],
        "runs": [{"label": run.label, "steps": [record.step for record in run.records]} for run in runs],
        "steps": sorted({record.step for record in records}),
        "layers": [_layer(layer, records) for layer in summary.LAYERS],
        "texts": [[text.readable(word, token_id), token_id] for token_id, word in words],
        "vocabulary": [[[_word(row, words) for row in table] for table in steps] for steps in tables],
        "pairs": [
            {"index": index, "prompt": text.clean(prompt), "runs": cards[index, prompt]}
            for index, prompt in sorted(cards)
        ],
    }


def _layer(layer: summary.Layer, records: list[Record]) -> dict[str, Any]:
    centre = summary.centre(records, layer)
    return {**layer._asdict(), "centre": centre, "top": short(summary.scale_top(records, layer, centre))}


def _word(row: dict[str, Any], words: dict[tuple[int, str], int]) -> dict[str, Any]:
    values = {key: short(value) for key, value in row.items() if key not in ("text", "token_id")}
    return {"word": words[row["token_id"], row["text"]], **values}


def _pair(versions: Sequence[Pair], words: dict[tuple[int, str], int]) -> dict[str, Any]:
    """A pair as it was at every step."""
    return {
        "margin": [short(summary.margin(pair)) for pair in versions],
        "sparsity": [short(summary.pair_sparsity(pair)) for pair in versions],
        "sides": [
            _response([pair.chosen for pair in versions], words),
            _response([pair.rejected for pair in versions], words),
        ],
    }


def _response(versions: Sequence[Response], words: dict[tuple[int, str], int]) -> dict[str, Any]:
    last = versions[-1]
    return {
        "words": [words[key] for key in zip(last.token_ids, last.tokens)],
        "joined": text.spans(last),
        "spaced": last.spaced,
        "records": [_values(response) for response in versions],
    }


def _values(response: Response) -> dict[str, Any]:
    values = {**response.values, "contribution": summary.contribution(response)}
    return {
        "sums": {key: short(value) for key, value in summary.sums(response).items()},
        **{key: None if column is None else list(map(short, column)) for key, column in values.items()},
    }


def short(value: Any) -> Any:
    """Fewer digits for a float; 0 stays 0 and nothing else becomes 0."""
    if not isinstance(value, float):
        return value
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
