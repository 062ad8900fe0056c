"""SparsePO: learned sparse masks on the log-ratio and on the KL of every response token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from sparsepo_plugin.masks.learned import ACTIVATIONS, INITIALISATIONS, LearnedMasks
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.scores import mask_l1, masked_scores, sigmoid_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, ReferenceShape, TokenStats


@dataclass(frozen=True)
class SparsePOOptions(LossOptions):
    """Options of SparsePO; names follow the paper where it has one."""

    masks: str = option(
        "common",
        "one mask for both terms, or two independent modules",
        choices=("common", "independent"),
    )
    mask_on: str = option(
        "both",
        "which term is masked; the other one keeps weight 1 on every token",
        choices=("both", "reward", "kl"),
    )
    layers: str = option(
        "all",
        "reference layers the mask reads: all (LayerNorm, one unit per layer, mixer) or last (one unit)",
        choices=("all", "last"),
    )
    layer_activation: str = option("relu", "activation of the unit of every layer", choices=ACTIVATIONS)
    mixer_activation: str = option("relu", "activation of the mask itself", choices=ACTIVATIONS)
    init: str = option(
        "unit",
        "start of the mask module: unit (masks near 1, as TDPO) or published (near 0, may start dead)",
        choices=INITIALISATIONS,
    )
    dropout: float = option(0.0, "dropout inside the mask module during training, in [0, 1)", least=0.0)
    reward_l1: float = option(0.0, "L1 penalty on the reward mask (halved with a common mask)", least=0.0)
    kl_l1: float = option(0.0, "L1 penalty on the KL mask (halved with a common mask)", least=0.0)
    mask_lr: float | None = option(
        None, "learning rate of the mask module; default: that of the policy", least=0.0
    )
    mask_weight_decay: float = option(0.01, "weight decay of the mask module's weights", least=0.0)

    def needs(self) -> Needs:
        """Full-vocabulary KL and the reference's hidden states."""
        return Needs(token_kl=True, hidden_states=True)

    def build_masks(self, shape: ReferenceShape, seed: int) -> nn.Module:
        """Build the learned mask module."""
        return LearnedMasks(
            shape,
            independent=self.masks == "independent",
            on_reward=self.mask_on in ("both", "reward"),
            on_kl=self.mask_on in ("both", "kl"),
            layers=self.layers,
            layer_activation=self.layer_activation,
            mixer_activation=self.mixer_activation,
            dropout=self.dropout,
            initialisation=self.init,
            seed=seed,
        )

    def mask_learning_rate(self, policy_learning_rate: float) -> float:
        """``mask_lr`` where given, else the policy's learning rate."""
        return policy_learning_rate if self.mask_lr is None else self.mask_lr

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
    if options.reward_l1 and options.mask_on != "kl":
        penalty = penalty + share * options.reward_l1 * mask_l1(masks.reward_mask, stats.response_mask)
    if options.kl_l1 and options.mask_on != "reward" and masks.kl_mask is not None:
        penalty = penalty + share * options.kl_l1 * mask_l1(masks.kl_mask, stats.response_mask)
    return output._replace(losses=output.losses + penalty)
