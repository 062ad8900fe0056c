"""Numbers that are none: NaN and infinity are refused wherever a network's output can reach a result.

Finite weights do not make finite activations: float16 overflows at 65,504. A NaN logit makes the first token
of the vocabulary the likeliest, and every comparison of log-probabilities false.
"""

import math
from typing import Any

from eval_harness.errors import UserError


def finite(value: Any) -> bool:
    """Whether all numbers in nested lists, tuples and dicts are finite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list | tuple) else True


def check_finite(values: Any, what: str) -> None:
    """Raise UserError unless all values are finite.

    Args:
      values: a number, nested lists of them, a tensor or an array. Of logits, of which some may be masked by
        -inf, the maximum of each row.
      what: names them in the message.
    """
    if hasattr(values, "isfinite"):  # a tensor
        fine = bool(values.isfinite().all())
    elif hasattr(values, "dtype"):
        import numpy as np

        fine = bool(np.isfinite(values).all())
    else:
        fine = finite(values)
    if not fine:
        raise UserError(
            "the model's output is not finite",
            got=f"NaN or infinity in {what}",
            expected="finite numbers",
            remedy="--dtype bfloat16 or float32; else the checkpoint is damaged",
        )


class FiniteScores:
    """A logits processor that changes nothing: it refuses rows of which no token is the likeliest."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [batch, vocabulary] in and out; a maximum is NaN where any score is."""
        check_finite(scores.amax(-1), "the scores of the next token")
        return scores
