"""The learned mask of SparsePO: a few units on the reference model's hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.masks import shaping
from sparsepo_plugin.masks.shaping import Activation
from sparsepo_plugin.masks.state_product import state_products
from sparsepo_plugin.options import MaskOptions, option
from sparsepo_plugin.registry import register_mask
from sparsepo_plugin.types import Masks, Needs, ReferenceShape, ReferenceState

Initialisation = Literal["unit", "published"]
INITIALISATIONS: tuple[Initialisation, ...] = get_args(Initialisation)


@dataclass(frozen=True)
class LearnedOptions(MaskOptions):
    """Options of a learned mask; those beyond the published method say so."""

    layers: str = option(
        "all",
        "reference layers read: all, or a list as 0,5,-1 (LayerNorm, units, mixer); last: one bare unit",
    )
    width: int = option(0, "hidden width of a two-layer unit; 0: one linear unit", least=0)
    layer_activation: Activation = option("relu", "activation of the unit of every layer")
    mixer_activation: Activation = option("relu", "activation of the mask itself")
    dropout: float = option(0.0, "dropout inside the mask module during training, in [0, 1)", least=0.0)
    init: Initialisation = option(
        "unit",
        "published (masks near 0, may start dead), or beyond the paper unit (near 1, starts as tdpo1)",
    )
    normalise: Literal["none", "mean"] = option(
        "mean",
        "beyond the paper: mean divides a mask by its mean over the response, which keeps beta's meaning",
    )
    floor: float = option(0.0, "beyond the paper: added to every mask value", least=0.0)
    token: Literal["before", "after"] = option(
        "before",
        "state read: before the token (published), or beyond the paper after it, which sees the token itself",
    )
    top: float = option(
        1.0, "beyond the paper: share of response tokens kept, the largest values, in (0, 1]", least=0.0
    )

    def validate(self) -> None:
        """Check the bounds and the form of the list of layers."""
        super().validate()
        if not 0 < self.top <= 1:
            raise UserError(f"option top: got {self.top}, expected a number in (0, 1]")
        if self.dropout >= 1:
            raise UserError(f"option dropout: got {self.dropout}, expected a number in [0, 1)")
        if self.layers not in ("all", "last"):
            parse_layers(self.layers, 1 << 20)  # the range is known with the model


@register_mask("learned", LearnedOptions, needs=Needs(hidden_states=True), learned=True)
def learned(options: LearnedOptions, shape: ReferenceShape, seed: int) -> nn.Module:
    """Units on the reference's hidden states."""
    return LearnedMasks(shape, options, seed=seed)


@register_mask("binary", LearnedOptions, needs=Needs(hidden_states=True), learned=True)
def binary(options: LearnedOptions, shape: ReferenceShape, seed: int) -> nn.Module:
    """Learned, with values 0 or 1."""
    return LearnedMasks(shape, options, binary=True, seed=seed)


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Read "all", "last" or a comma-separated list of block indices (negative ones count from the end).

    Raises:
      UserError: not a list of integers, out of range, or a layer twice.
    """
    if text == "all":
        return tuple(range(count))
    if text == "last":
        return (count - 1,)
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"option layers: got {text!r}, expected all, last or a list such as 0,5,-1") from None
    if any(not -count <= layer < count for layer in layers):
        raise UserError(f"option layers: got {text!r}, expected indices from {-count} to {count - 1}")
    indices = tuple(layer % count for layer in layers)
    if len(set(indices)) != len(indices):
        raise UserError(f"option layers: got {text!r}, expected every layer once")
    return indices


class LearnedMask(nn.Module):
    """One mask: m = act(sum_l v_l act(w_l . LayerNorm(h_l) + b_l)), or act(w . h_L + b) for a bare unit.

    The LayerNorm's gain and bias are shared by all layers; the mixer v has no bias. With a width, the
    unit is w_l . relu(A_l n + c_l) + b_l. All parameters sit on this module itself, so that ZeRO-3
    gathers them when it is called. The arithmetic is done in max(float32, dtype of the parameters): a
    bfloat16 mask would be exact only to 3 digits.

    "published" draws w and v like the model's own weights, with b = 0: masks start near 0 (an effective beta
    25 to 45 times smaller) and, in small models, often at exactly 0, where no gradient revives them. "unit"
    sets b = 1 and v = 1/L, so that masks start near 1, at TDPO.

    Args:
      shape: sizes of the reference model.
      options: how the mask is built.
      binary: 1 where the raw score is positive, else 0.
      generator: source of the initial weights.

    Source: arXiv 2410.05102, equation 9; upstream ``mask_models.py`` (simple_*, ml_*, binary_*).
    """

    def __init__(
        self,
        shape: ReferenceShape,
        options: LearnedOptions,
        *,
        binary: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.options, self.eps, self.expected_layers = options, shape.layer_norm_eps, shape.layers
        self.binary, self.mixed = binary, options.layers != "last"
        self.layers = parse_layers(options.layers, shape.layers)
        units, hidden = len(self.layers), shape.hidden_size

        def normal(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*size, generator=generator) * shape.initializer_range)

        unit = options.init == "unit"
        self.weight = normal(units, options.width or hidden)
        self.bias = nn.Parameter(torch.full((units,), float(unit)))
        if options.width:
            self.inner_weight = normal(units, options.width, hidden)
            self.inner_bias = nn.Parameter(torch.zeros(units, options.width))
        if self.mixed:
            self.mixer = nn.Parameter(torch.full((units,), 1 / units)) if unit else normal(units)
            self.norm_weight = nn.Parameter(torch.ones(hidden))
            self.norm_bias = nn.Parameter(torch.zeros(hidden))

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Parameters under weight decay: weights, not biases and norms."""
        return [p for name, p in self.named_parameters() if name in ("weight", "inner_weight", "mixer")]

    def forward(self, hidden_states: tuple[Tensor, ...], response_mask: Tensor) -> Tensor:
        """Weigh every token.

        Args:
          hidden_states: outputs of blocks 1..L, each [rows, seq, hidden].
          response_mask: true on response tokens, [rows, seq - 1], bool.

        Returns:
          [rows, seq - 1]; >= 0 with the relu mixer activation. Values outside the response mean nothing.

        Raises:
          ValueError: the number or width of the states differs from the module's.
        """
        self._check(hidden_states)
        dtype = torch.promote_types(torch.float32, self.weight.dtype)
        columns = slice(1, None) if self.options.token == "after" else slice(None, -1)
        scores = self._scores([hidden_states[layer][:, columns] for layer in self.layers], dtype)
        if not self.mixed:
            return self._shape(scores[0], response_mask)
        scores = self._drop(shaping.activate(self.options.layer_activation, scores, response_mask))
        return self._shape(torch.tensordot(self.mixer.to(dtype), scores, 1), response_mask)

    def _scores(self, states: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Raw scores of the units, [units, rows, seq - 1]."""
        last, bias = self.weight.to(dtype), self.bias.to(dtype)[:, None, None]
        if not self.options.width:
            return self._of_states(states, last[:, None], dtype).squeeze(-1) + bias
        inner = self._of_states(states, self.inner_weight.to(dtype), dtype)
        inner = torch.relu(inner + self.inner_bias.to(dtype)[:, None, None])
        return (inner @ last[:, None, :, None]).squeeze(-1) + bias

    def _of_states(self, states: list[Tensor], weights: Tensor, dtype: torch.dtype) -> Tensor:
        """The states, normalised where layers are mixed, times their weights [units, k, hidden]."""
        if not self.mixed:
            return state_products(states, weights, None)
        gain, shift = self.norm_weight.to(dtype), self.norm_bias.to(dtype)
        return state_products(states, weights * gain, self.eps) + (weights @ shift)[:, None, None]

    def _shape(self, score: Tensor, response_mask: Tensor) -> Tensor:
        """Turn raw scores into the mask."""
        options = self.options
        if self.binary:
            mask = shaping.binarise(score)
        else:
            mask = shaping.activate(options.mixer_activation, score, response_mask)
        mask = self._drop(mask)
        if options.top < 1:
            mask = shaping.keep_top(mask, options.top, response_mask)
        if options.floor:
            mask = mask + options.floor
        return shaping.to_mean_one(mask, response_mask) if options.normalise == "mean" else mask

    def _drop(self, value: Tensor) -> Tensor:
        dropout = self.options.dropout
        return functional.dropout(value, dropout, self.training) if dropout else value

    def _check(self, hidden_states: tuple[Tensor, ...]) -> None:
        width = self.inner_weight.shape[-1] if self.options.width else self.weight.shape[-1]
        if len(hidden_states) != self.expected_layers:
            raise ValueError(
                f"expected hidden states of {self.expected_layers} layers: got {len(hidden_states)}"
            )
        if hidden_states[-1].shape[-1] != width:
            raise ValueError(f"expected hidden states of width {width}: got {hidden_states[-1].shape[-1]}")


class LearnedMasks(nn.Module):
    """The two masks of SparsePO from one common or two independent LearnedMask modules.

    Args:
      shape: sizes of the reference model.
      options: how each mask is built, whether both terms share one, and which terms have one; the other
        term's mask is 1 everywhere.
      binary: masks are 0 or 1.
      seed: seed of the initial weights; equal on all processes.
    """

    def __init__(
        self, shape: ReferenceShape, options: LearnedOptions, *, binary: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        both = ("common",) if options.masks == "common" else ("reward", "kl")
        terms = both if options.mask_on == "both" else (options.mask_on,)
        self.by_term = nn.ModuleDict(
            {term: LearnedMask(shape, options, binary=binary, generator=generator) for term in terms}
        )

    def forward(self, reference: ReferenceState) -> Masks:
        """Masks of both terms, [2 * pairs, seq - 1]; a common mask is the same tensor twice."""
        states, response_mask = reference.hidden_states, reference.response_mask
        values = {name: module(states, response_mask) for name, module in self.by_term.items()}
        if "common" in values:
            return Masks(values["common"], values["common"])
        ones = torch.ones_like(next(iter(values.values())))
        return Masks(values.get("reward", ones), values.get("kl", ones))

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Parameters under weight decay."""
        modules = (module for module in self.by_term.values() if isinstance(module, LearnedMask))
        return [parameter for module in modules for parameter in module.decayed_parameters()]
