"""SparsePO: learned sparse masks on the log-ratio and on the KL of every response token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from sparsepo_plugin import registry
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import mask_l1, masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option, option_rows
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, ReferenceShape, TokenStats

_SOURCES = registry.mask_sources()
_SourceOptions: Any = registry.mask_options()


@dataclass(frozen=True)
class _LossOptions(LossOptions):
    """What SparsePO itself can be told; its mask sources add the rest."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"init": "published", "mask_lr_scale": 1.0, "normalise": "none", "anchor": 0.0}
    }
    earlier: ClassVar[Mapping[str, Any]] = {"anchor": 0.0}

    anchor: float = option(
        3.0,
        "beyond the paper, which has none: weight of the mean token KL(reference || policy), which holds "
        "tokens that masks free; measured with beta 0.1",
        least=0.0,
        affects="training",
    )

    preset: Literal["default", "paper"] = option(
        "default",
        "starting point of all other options: default, chosen by measurement; paper, as published",
    )
    source: str = option(
        "learned",
        "; ".join(f"{name}: {source.summary.rstrip('.')}" for name, source in _SOURCES.items()),
        choices=tuple(_SOURCES),
    )
    reward_l1: float = option(
        0.0, "L1 penalty on the reward mask (halved with a common mask)", least=0.0, affects="training"
    )
    kl_l1: float = option(
        0.0, "L1 penalty on the KL mask (halved with a common mask)", least=0.0, affects="training"
    )
    mask_lr: float | None = option(
        None,
        "learning rate of the mask module; default: mask_lr_scale x adam.lr",
        least=0.0,
        affects="training",
    )
    mask_lr_scale: float = option(
        10.0,
        "beyond the paper: multiple of the policy's learning rate, where mask_lr is not given",
        least=0.0,
        affects="training",
    )
    mask_weight_decay: float = option(
        0.01, "weight decay of the mask module's weights", least=0.0, affects="training"
    )


@dataclass(frozen=True)
class SparsePOOptions(_SourceOptions, _LossOptions):  # type: ignore[misc]
    """Options of SparsePO and of all its mask sources; options beyond the published method say so.

    The defaults are chosen on the evidence in docs/planted.md: masks start at 1, learn ten times as fast as
    the policy and keep mean 1, which finds the tokens on every seed and becomes sparse by itself; the anchor
    is what docs/mask-anchor-plan.md registered and docs/mask-anchor.md found.
    """

    def variant(self) -> str:
        """Kind of mask, normalisation and anchor, and how far that is from the published method."""
        number = "one mask" if self.masks == "common" else "two masks"
        told = f"{self.source} ({number}), normalise {self.normalise}, anchor {self.anchor:g}"
        paper = self.presets["paper"]
        published = self.learned and all(getattr(self, name) == value for name, value in paper.items())
        return f"{told}; " + ("as published" if published else "preset paper is the published method")

    def validate(self) -> None:
        """Check bounds and combinations."""
        super().validate()
        for name, value in (("reward_l1", self.reward_l1), ("kl_l1", self.kl_l1)):
            if value and self.normalise == "mean" and self.learned:
                raise UserError(
                    f"option {name}: got {value} with normalise mean, which fixes the L1 norm; "
                    f"expected 0, or normalise none"
                )

    def idle(self) -> dict[str, str]:
        """Options of other mask sources, and what only a learned mask, or the masked term, reads."""
        chosen, source = _SOURCES[self.source], f"source {self.source}"
        own = {row.name for row in option_rows(chosen.options)}
        found = {row.name: source for row in option_rows(_SourceOptions) if row.name not in own}
        if not self.learned:
            learning = ("reward_l1", "kl_l1", "mask_lr", "mask_lr_scale", "mask_weight_decay", "mask_on")
            found |= dict.fromkeys(learning, source)
        elif self.mask_on != "both":
            found["kl_l1" if self.mask_on == "reward" else "reward_l1"] = f"mask_on {self.mask_on}"
            found["masks"] = f"mask_on {self.mask_on}"
        if self.learned and self.mask_lr is not None:
            found["mask_lr_scale"] = f"mask_lr {self.mask_lr}"
        if self.layers == "last":
            found["layer_activation"] = "layers last"
        return super().idle() | found

    @property
    def learned(self) -> bool:
        """Whether there is a module to train."""
        return _SOURCES[self.source].learned

    def needs(self) -> Needs:
        """Full-vocabulary KL, and what the mask source needs."""
        return replace(_SOURCES[self.source].needs, token_kl=True)

    def build_masks(self, shape: ReferenceShape, seed: int) -> nn.Module:
        """Build the mask source.

        Raises:
          UserError: an option that the reference model does not fit.
        """
        return _SOURCES[self.source].function(self, shape, seed)

    def mask_learning_rate(self, policy_learning_rate: float) -> float:
        """``mask_lr`` where given, else a multiple of the policy's learning rate."""
        return policy_learning_rate * self.mask_lr_scale if self.mask_lr is None else self.mask_lr

    def mask_decay(self) -> float:
        """``mask_weight_decay``."""
        return self.mask_weight_decay


@register_loss("sparsepo", SparsePOOptions)
def sparsepo(stats: TokenStats, masks: Masks, beta: float, options: SparsePOOptions) -> LossOutput:
    """SparsePO: -log sigmoid(beta ((U + K)_chosen - (U + K)_rejected)) + L1 of the masks.

    With masks of ones this is TDPO version 1. Rewards are beta (U + K), so that chosen - rejected is the
    loss's logit; the released implementation logs beta (U - K).

    Args:
      stats: token statistics with token_kl, [2 * pairs, seq - 1], chosen rows first.
      masks: weights m_u and m_d; signed values are accepted.
      beta: inverse temperature, > 0; does not scale the penalties.
      options: of SparsePO.

    Source: arXiv 2410.05102, equations 4 to 8; upstream ``sparse_trainer.py:sparse_loss``.
    """
    output = sigmoid_loss(masked_scores(stats, masks), beta)
    penalty = output.losses.new_zeros(())
    # A common mask enters both penalties; upstream halves both so that their mean counts.
    share = 0.5 if options.masks == "common" and options.mask_on == "both" else 1.0
    if options.reward_l1 and options.learned and options.mask_on != "kl":
        penalty = penalty + share * options.reward_l1 * mask_l1(masks.reward_mask, stats.response_mask)
    if options.kl_l1 and options.learned and options.mask_on != "reward" and masks.kl_mask is not None:
        penalty = penalty + share * options.kl_l1 * mask_l1(masks.kl_mask, stats.response_mask)
    return output._replace(losses=output.losses + penalty)
