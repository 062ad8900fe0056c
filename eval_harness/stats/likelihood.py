"""The gold answer's log-likelihood as a graded score."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy and scipy are imported only by what computes
    from eval_harness.stats.clustered import Floats


GOLD = ("gold_per_byte,none", "gold_share,none")


def probability_per_byte(log_likelihood: "Floats", size: "Floats") -> "Floats":
    """Geometric mean of the probability per byte, in (0, 1]: a score that the gate takes.

    Equation: exp(log-likelihood / bytes). It moves with every answer where accuracy moves with few, and
    normal approximations fit it better, but a change in it need not change a single answer.

    Args:
      log_likelihood: of the gold answer, nats, at most 0, [items].
      size: bytes of its UTF-8 text, at least 1, [items].

    Raises:
      ValueError: a positive or unreal log-likelihood, a size below 1, or lengths that differ.
    """
    import numpy as np

    if log_likelihood.shape != size.shape or not log_likelihood.size:
        raise ValueError(f"got {log_likelihood.shape} log-likelihoods and {size.shape} sizes")
    if not bool((log_likelihood <= 0).all()) or not bool((size >= 1).all()):
        raise ValueError("got a log-likelihood above 0 or not a number, or an answer without bytes")
    return np.asarray(np.exp(log_likelihood / size), dtype=np.float64)


def gold_scores(outputs: Sequence[Any], choices: Sequence[str], target: Any) -> dict[str, float]:
    """Graded scores of the gold answer among choices; none where outputs and target do not name one.

    `gold_per_byte,none` is its probability per byte (`probability_per_byte`), `gold_share,none` the one among
    the choices: exp(l_gold) / sum_c exp(l_c).

    Args:
      outputs: [log-probability in nats, is greedy] of each choice.
      choices: texts scored.
      target: index of the gold answer, or its text.
    """
    import numpy as np

    values = [output[0] for output in outputs if isinstance(output, list | tuple) and output]
    if len(values) != len(choices) or not all(isinstance(v, float) and v <= 0 for v in values):
        return {}
    gold = _gold(choices, target)
    if gold is None or not choices[gold]:
        return {}
    logs = np.asarray(values, dtype=np.float64)
    size = np.array([len(choices[gold].encode("utf-8"))], dtype=np.float64)
    share = np.exp(logs[gold] - logs.max()) / np.exp(logs - logs.max()).sum()
    return dict(
        zip(GOLD, (float(probability_per_byte(logs[gold : gold + 1], size)[0]), float(share)), strict=True)
    )


def _gold(choices: Sequence[str], target: Any) -> int | None:
    """Which choice is meant: its index, also one written as text, or its own text; None where both fit."""
    meant = set()
    if isinstance(target, str):
        texts = [choice.strip() for choice in choices]
        meant |= {texts.index(target.strip())} if texts.count(target.strip()) == 1 else set()
    if isinstance(target, int) or (isinstance(target, str) and target.strip().isdecimal()):
        meant |= {int(target)} if 0 <= int(target) < len(choices) else set()
    return meant.pop() if len(meant) == 1 else None
