"""SparsePO: learned sparse masks on the log-ratio and on the KL of every response token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import nn

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.masks.learned import INITIALISATIONS, LearnedMasks, MaskDesign, parse_layers
from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.masks.random import RandomMasks
from sparsepo_plugin.masks.shaping import ACTIVATIONS
from sparsepo_plugin.objective import mask_l1, masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, ReferenceShape, TokenStats


@dataclass(frozen=True)
class SparsePOOptions(LossOptions):
    """Options of SparsePO; options beyond the published method say so.

    The defaults are chosen on the evidence in docs/planted.md: masks start at 1, learn ten times as fast as
    the policy and keep mean 1, which finds the tokens on every seed and becomes sparse by itself.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"init": "published", "mask_lr_scale": 1.0, "normalise": "none"}
    }

    preset: str = option(
        "default",
        "starting point of all other options: default, chosen by measurement; paper, as published",
        choices=("default", "paper"),
    )
    masks: str = option(
        "common", "one mask for both terms, or two independent modules", choices=("common", "independent")
    )
    mask_on: str = option(
        "both", "the masked term; the other keeps weight 1 on every token", choices=("both", "reward", "kl")
    )
    source: str = option(
        "learned",
        "learned; binary: learned, values 0 or 1; the ablations random (seeded) and uniform (= tdpo1)",
        choices=("learned", "binary", "random", "uniform"),
    )
    density: float = option(0.5, "share of tokens that a random mask keeps, in (0, 1]", least=0.0)
    layers: str = option(
        "all",
        "reference layers read: all, or a list as 0,5,-1 (LayerNorm, units, mixer); last: one bare unit",
    )
    width: int = option(0, "hidden width of a two-layer unit; 0: one linear unit", least=0)
    layer_activation: str = option("relu", "activation of the unit of every layer", choices=ACTIVATIONS)
    mixer_activation: str = option("relu", "activation of the mask itself", choices=ACTIVATIONS)
    dropout: float = option(0.0, "dropout inside the mask module during training, in [0, 1)", least=0.0)
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
    init: str = option(
        "unit",
        "published (masks near 0, may start dead), or beyond the paper unit (near 1, starts as tdpo1)",
        choices=INITIALISATIONS,
    )
    normalise: str = option(
        "mean",
        "beyond the paper: mean divides a mask by its mean over the response, which keeps beta's meaning",
        choices=("none", "mean"),
    )
    floor: float = option(0.0, "beyond the paper: added to every mask value", least=0.0)
    token: str = option(
        "before",
        "state read: before the token (published), or beyond the paper after it, which sees the token itself",
        choices=("before", "after"),
    )
    top: float = option(
        1.0, "beyond the paper: share of response tokens kept, the largest values, in (0, 1]", least=0.0
    )

    def validate(self) -> None:
        """Check bounds and combinations."""
        super().validate()
        for name, value in (("top", self.top), ("density", self.density)):
            if not 0 < value <= 1:
                raise UserError(f"option {name}: got {value}, expected a number in (0, 1]")
        if self.dropout >= 1:
            raise UserError(f"option dropout: got {self.dropout}, expected a number in [0, 1)")
        for name, value in (("reward_l1", self.reward_l1), ("kl_l1", self.kl_l1)):
            if value and self.normalise == "mean" and self.learned:
                raise UserError(
                    f"option {name}: got {value} with normalise mean, which fixes the L1 norm; "
                    f"expected 0, or normalise none"
                )
        if self.layers not in ("all", "last"):
            parse_layers(self.layers, 1 << 20)  # the form; the range is known with the model

    @property
    def learned(self) -> bool:
        """Whether there is a module to train."""
        return self.source in ("learned", "binary")

    def needs(self) -> Needs:
        """Full-vocabulary KL, and the reference's hidden states where a mask is learned."""
        return Needs(token_kl=True, hidden_states=self.learned)

    def build_masks(self, shape: ReferenceShape, seed: int) -> nn.Module:
        """Build the mask source."""
        if self.source == "uniform":
            return OnesMask(kl=True)
        if self.source == "random":
            return RandomMasks(self.density, independent=self.masks == "independent", seed=seed)
        design = MaskDesign(
            layers=parse_layers(self.layers, shape.layers),
            mixed=self.layers != "last",
            width=self.width,
            layer_activation=self.layer_activation,
            mixer_activation=self.mixer_activation,
            initialisation=self.init,
            dropout=self.dropout,
            token=self.token,
            binary=self.source == "binary",
            top=self.top,
            floor=self.floor,
            normalise=self.normalise == "mean",
        )
        return LearnedMasks(
            shape,
            design,
            independent=self.masks == "independent",
            on_reward=self.mask_on in ("both", "reward"),
            on_kl=self.mask_on in ("both", "kl"),
            seed=seed,
        )

    def mask_learning_rate(self, policy_learning_rate: float) -> float:
        """``mask_lr`` where given, else a multiple of the policy's learning rate."""
        return policy_learning_rate * self.mask_lr_scale if self.mask_lr is None else self.mask_lr

    def mask_decay(self) -> float:
        """``mask_weight_decay``."""
        return self.mask_weight_decay


@register_loss("sparsepo", SparsePOOptions)
def sparsepo(stats: TokenStats, masks: Masks, beta: float, options: LossOptions) -> LossOutput:
    """SparsePO: -log sigmoid(beta ((U + K)_chosen - (U + K)_rejected)) + L1 of the masks.

    With masks of ones this is TDPO version 1. Rewards are beta (U + K), so that chosen - rejected is the
    loss's logit; the released implementation logs beta (U - K).

    Args:
      stats: token statistics with token_kl, [2 * pairs, seq - 1], chosen rows first.
      masks: weights m_u and m_d; signed values are accepted.
      beta: inverse temperature, > 0; does not scale the penalties.
      options: SparsePOOptions.

    Source: arXiv 2410.05102, equations 4 to 8; upstream ``sparse_trainer.py:sparse_loss``.
    """
    options = cast(SparsePOOptions, options)
    output = sigmoid_loss(masked_scores(stats, masks), beta)
    penalty = output.losses.new_zeros(())
    # A common mask enters both penalties; upstream halves both so that their mean counts.
    share = 0.5 if options.masks == "common" and options.mask_on == "both" else 1.0
    if options.reward_l1 and options.learned and options.mask_on != "kl":
        penalty = penalty + share * options.reward_l1 * mask_l1(masks.reward_mask, stats.response_mask)
    if options.kl_l1 and options.learned and options.mask_on != "reward" and masks.kl_mask is not None:
        penalty = penalty + share * options.kl_l1 * mask_l1(masks.kl_mask, stats.response_mask)
    return output._replace(losses=output.losses + penalty)
