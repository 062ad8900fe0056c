"""Sums, sparsity, margins and the vocabulary of a record: every number of the page that is not a token's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsepo_plugin.run_folder.tokens import Pair, Record, Response, Values

# A mean of float16 masks is so near to 1.
_NEAR = 5e-3
_ENOUGH = 4
_TENTH = 0.1


class Layer(NamedTuple):
    """Something that tokens can be coloured by; signed ones get a diverging scale."""

    key: str
    name: str
    unit: str
    signed: bool
    meaning: str


LAYERS = (
    Layer(
        "contribution", "weighted contribution", "nats", True, "m_u log-ratio + m_d KL; the sum is the score"
    ),
    Layer("reward_mask", "reward mask", "", False, "weight m_u of the token's log-ratio"),
    Layer("kl_mask", "KL mask", "", False, "weight m_d of the token's KL"),
    Layer("log_ratio", "log-ratio", "nats", True, "log policy - log reference"),
    Layer("token_kl", "KL", "nats", False, "KL(reference, policy) at the token"),
)


def contribution(response: Response) -> Values | None:
    """m_u log-ratio + m_d KL per token, nats, before beta; None without a reference.

    A mask of 0 removes its term whatever the other factor; without a KL mask there is no KL term.
    """
    masks, ratios = response.values["reward_mask"], response.values["log_ratio"]
    weights, kls = response.values["kl_mask"], response.values["token_kl"]
    if masks is None or ratios is None:
        return None
    terms = [_product(mask, ratio) for mask, ratio in zip(masks, ratios)]
    if weights is None or kls is None:
        return terms
    return [_add(term, _product(weight, kl)) for term, weight, kl in zip(terms, weights, kls)]


def _product(left: float | None, right: float | None) -> float | None:
    if left == 0:
        return 0.0
    return None if left is None or right is None else left * right


def _add(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right


def sum_of(values: Values | None) -> float | None:
    """Sum over the response; None where there is nothing to sum or a value is not finite."""
    if values is None or any(value is None for value in values):
        return None
    return math.fsum(value for value in values if value is not None)


def sparsity(values: Values | None) -> float | None:
    """Share of tokens whose mask is exactly 0."""
    return None if not values else sum(value == 0 for value in values) / len(values)


def sums(response: Response) -> dict[str, float | int | None]:
    """Everything shown about a response."""
    values, total = response.values, contribution(response)
    return {
        "tokens": len(response.tokens),
        "reward_mask_sparsity": sparsity(values["reward_mask"]),
        "kl_mask_sparsity": sparsity(values["kl_mask"]),
        **{key: sum_of(values[key]) for key in ("reward_mask", "kl_mask", "log_ratio", "token_kl")},
        "contribution": sum_of(total),
    }


def margin(pair: Pair) -> float | None:
    """Score of the chosen minus score of the rejected response, nats, before beta."""
    chosen, rejected = (sum_of(contribution(side)) for side in (pair.chosen, pair.rejected))
    return None if chosen is None or rejected is None else chosen - rejected


def pair_sparsity(pair: Pair) -> float:
    """Share of the tokens of both responses whose masks are all exactly 0."""
    zeros = tokens = 0
    for response in (pair.chosen, pair.rejected):
        masks = [values for key in ("reward_mask", "kl_mask") if (values := response.values[key]) is not None]
        zeros += sum(all(value == 0 for value in column) for column in zip(*masks))
        tokens += len(response.tokens)
    return zeros / tokens if tokens else 0.0


def centre(records: Sequence[Record], layer: Layer) -> int:
    """Where a layer's colours part: 1 for a mask whose mean over every response is 1, else 0.

    Such masks (``normalise mean``) say of a token whether it weighs more or less than without a mask. A
    response whose mask is 0 throughout stays so; masks that are all 1 part nothing, and of fewer than four
    responses a mean of 1 may be chance.
    """
    lists = [values for values in _lists(records, layer) if values]
    means = [math.fsum(value or 0 for value in values) / len(values) for values in lists]
    is_mask = layer.key in ("reward_mask", "kl_mask")
    near_one = all(mean == 0 or abs(mean - 1) < _NEAR for mean in means)
    differs = any(
        value is not None and abs(value - 1) > _NEAR for values in lists for value in values if value
    )
    return int(is_mask and near_one and differs and sum(mean > 0 for mean in means) >= _ENOUGH)


def scale_top(records: Sequence[Record], layer: Layer, middle: int = 0) -> float | None:
    """Where colours end: the 99th percentile of the distance from the middle; None without values."""
    lists = _lists(records, layer)
    if all(values is None for values in lists):
        return None
    known = sorted(abs(v - middle) for values in lists for v in values or () if v)
    return (known[min(len(known) - 1, math.ceil(0.99 * len(known)) - 1)] if known else 0) or 1.0


def _lists(records: Sequence[Record], layer: Layer) -> list[Values | None]:
    return [
        _of(layer, side) for one in records for pair in one.pairs for side in (pair.chosen, pair.rejected)
    ]


def _of(layer: Layer, response: Response) -> Values | None:
    return contribution(response) if layer.key == "contribution" else response.values[layer.key]


def vocabulary(record: Record) -> list[dict[str, Any]]:
    """One row per token of the record, the largest mean reward mask first.

    Rows hold text, token_id, count, zeros (share of occurrences with a reward mask of exactly 0) and the mean
    of every layer (None where it has none).
    """
    seen: dict[tuple[int, str], list[tuple[float | None, ...]]] = {}
    for pair in record.pairs:
        for response in (pair.chosen, pair.rejected):
            blank: Values = [None] * len(response.tokens)
            columns = [_of(layer, response) or blank for layer in LAYERS]
            for token, text, *values in zip(response.token_ids, response.tokens, *columns):
                seen.setdefault((token, text), []).append(tuple(values))
    rows = []
    masks = [layer.key for layer in LAYERS].index("reward_mask")
    for (token, text), occurrences in seen.items():
        means = {
            layer.key: _mean([row[column] for row in occurrences]) for column, layer in enumerate(LAYERS)
        }
        zeros = sum(row[masks] == 0 for row in occurrences) / len(occurrences)
        rows.append({"text": text, "token_id": token, "count": len(occurrences), "zeros": zeros, **means})
    return sorted(rows, key=lambda row: (-(row["reward_mask"] or 0), -row["count"], row["token_id"]))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def overview(record: Record) -> dict[str, float | int | str | None]:
    """What a reader should know before single tokens, by the heading of its column; shares as text."""
    margins = [value for pair in record.pairs if (value := margin(pair)) is not None]
    sides = [side for pair in record.pairs for side in (pair.chosen, pair.rejected)]
    sizes = sorted(
        (abs(v) for side in sides for v in contribution(side) or () if v is not None), reverse=True
    )
    first, total = sizes[: math.ceil(_TENTH * len(sizes))], math.fsum(sizes)
    return {
        "step": record.step,
        "pairs": len(record.pairs),
        "tokens": sum(len(side.tokens) for side in sides),
        "mean margin (nats)": _mean(list(margins)),
        "wrong sign": _percent(sum(value < 0 for value in margins) / len(margins) if margins else None),
        "reward mask at 0": _percent(
            sparsity([v for side in sides for v in side.values["reward_mask"] or ()])
        ),
        "KL mask at 0": _percent(sparsity([v for side in sides for v in side.values["kl_mask"] or ()])),
        "contribution in the largest tenth": _percent(math.fsum(first) / total if total else None),
    }


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
