"""Loss output to metrics: sums with counts, so that any split into batches and ranks averages exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.types import LossOutput, Masks, TokenStats


class MetricSum(NamedTuple):
    """A sum and the number of things summed; the metric is their ratio."""

    total: float
    number: float


Z_95 = 1.959964  # normal quantile of a two-sided interval of 95 %
# Of these the error of the mean over pairs is told; that of a share follows from the number of pairs.
_WITH_ERROR = ("loss", "margin", "chosen_sequence_kl", "rejected_sequence_kl")
_SQUARES = "squared "


def pair_metrics(
    stats: TokenStats, masks: Masks, output: LossOutput, beta: float, *, errors: bool = False
) -> dict[str, MetricSum]:
    """Metrics of a batch of pairs, detached.

    Rewards, margin and accuracy follow the sign of the loss's logit. ``accuracy_unmasked`` and
    ``margin_unmasked`` are those of plain DPO's implicit reward, that is with the masks removed: masked
    accuracy alone can rise by the masks only. Ties count one half. Sequence KL is KL(reference || policy)
    summed over the response, in nats; ``sparsity`` is the share of response tokens whose mask is exactly 0.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: the masks the loss used.
      output: what the loss returned.
      beta: inverse temperature, for the unmasked rewards.
      errors: also the sums that standard errors are computed from.
    """
    by_pair: dict[str, Tensor] = {"loss": output.losses, "margin": output.logits}
    by_pair["accuracy"] = _win(output.logits)
    by_pair["chosen_rewards"], by_pair["rejected_rewards"] = output.chosen_rewards, output.rejected_rewards
    by_pair["chosen_logps"], by_pair["rejected_logps"] = stats.policy_logps.sum(-1).chunk(2)
    if stats.reference_logps is not None:
        chosen, rejected = (stats.policy_logps - stats.reference_logps).sum(-1).chunk(2)
        by_pair["margin_unmasked"] = beta * (chosen - rejected)
        by_pair["accuracy_unmasked"] = _win(by_pair["margin_unmasked"])
    response = stats.response_mask
    if stats.token_kl is not None:
        _split(by_pair, "sequence_kl", stats.token_kl.sum(-1))
        if masks.kl_mask is not None:
            masked = torch.where(response, masks.kl_mask * stats.token_kl, 0.0)
            _split(by_pair, "masked_sequence_kl", masked.sum(-1))
    pairs = torch.full((), float(len(output.losses)), dtype=torch.float64, device=response.device)
    sums = {name: (_sum(value), pairs) for name, value in by_pair.items()}
    if errors:
        squares = {name: by_pair[name].double().square() for name in _WITH_ERROR if name in by_pair}
        sums |= {f"{_SQUARES}{name}": (_sum(value), pairs) for name, value in squares.items()}
    for name, mask in (("reward_mask", masks.reward_mask), ("kl_mask", masks.kl_mask)):
        if mask is not None:
            sums |= _mask_metrics(name, mask.detach(), response)
    # All of them in one copy: a GPU is waited for once.
    values = torch.stack([part for parts in sums.values() for part in parts]).view(-1, 2).tolist()
    return {name: MetricSum(*row) for name, row in zip(sums, values)}


def _win(margin: Tensor) -> Tensor:
    return (margin > 0).double() + 0.5 * (margin == 0).double()


def _split(by_pair: dict[str, Tensor], name: str, values: Tensor) -> None:
    by_pair[f"chosen_{name}"], by_pair[f"rejected_{name}"] = values.chunk(2)


def _sum(value: Tensor) -> Tensor:
    return value.detach().double().sum()


def _mask_metrics(name: str, mask: Tensor, response: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    on_response = torch.where(response, mask, 0.0)
    tokens = _sum(response)
    rows = torch.full_like(tokens, float(len(mask)))
    sums = {
        f"{name}_sparsity": (_sum((mask == 0) & response), tokens),
        f"{name}_mean": (_sum(on_response), tokens),
        f"{name}_l1": (_sum(on_response.abs()), rows),
    }
    for side, values, kept in zip(("chosen", "rejected"), on_response.chunk(2), response.chunk(2)):
        sums[f"{side}_{name}_mean"] = (_sum(values), _sum(kept))
    return sums


def add(left: dict[str, MetricSum], right: dict[str, MetricSum]) -> dict[str, MetricSum]:
    """Add two sets of sums, name by name."""
    zero = MetricSum(0.0, 0.0)
    names = dict.fromkeys((*left, *right))
    return {
        name: MetricSum(*(a + b for a, b in zip(left.get(name, zero), right.get(name, zero))))
        for name in names
    }


def ratios(sums: dict[str, MetricSum]) -> dict[str, float]:
    """Turn sums into means; a metric with nothing to average is nan.

    Where squares were summed, ``pairs`` is the number of pairs and ``NAME_stderr`` the standard error of the
    mean over them, which takes two pairs.
    """
    means = {name: s.total / s.number if s.number else float("nan") for name, s in sums.items()}
    squares = {name: means.pop(f"{_SQUARES}{name}") for name in _WITH_ERROR if f"{_SQUARES}{name}" in means}
    for name, square in squares.items():
        pairs = sums[name].number
        means["pairs"] = int(pairs)
        if pairs > 1:
            means[f"{name}_stderr"] = math.sqrt(max(0.0, square - means[name] ** 2) / (pairs - 1))
    return means


def wilson_interval(share: float, count: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a share in [0, 1] of ``count`` pairs, at least 1; 95 % by default.

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    spread = z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = (z / (1 + spread)) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


class DeadMaskWatch:
    """Notices a mask that has been 0 on every response token for a while: no gradient will revive it.

    Args:
      named: an option's name as users give it, such as "--sparsepo.init" for "init".
      patience: consecutive steps before the warning, which is given once per mask.
    """

    def __init__(self, named: Callable[[str], str], patience: int = 20) -> None:
        self.named, self.patience = named, patience
        self._dead: dict[str, int] = {}

    def look(self, metrics: dict[str, float], step: int) -> str:
        """Return the warning that this step's metrics call for, or an empty string."""
        warnings = []
        for name in ("reward_mask", "kl_mask"):
            dead = metrics.get(f"{name}_sparsity") == 1.0
            self._dead[name] = self._dead.get(name, 0) + 1 if dead else 0
            if self._dead[name] == self.patience:
                warnings.append(
                    f"warning: the {name.replace('_', ' ')} has been 0 on every response token for "
                    f"{self.patience} steps (step {step}): it is dead and trains no token; start "
                    f"again with {self.named('init')} unit, a lower L1 penalty or {self.named('floor')}"
                )
        return "\n".join(warnings)
