"""The learned mask of SparsePO: a few units on the reference model's hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.masks import shaping
from sparsepo_plugin.types import Masks, ReferenceShape, ReferenceState

INITIALISATIONS = ("unit", "published")


@dataclass(frozen=True)
class MaskDesign:
    """How a learned mask is built; see SparsePOOptions for what each entry does.

    Attributes:
      layers: indices of the blocks read, from 0.
      mixed: LayerNorm before and mixer after the units; false for the bare last layer.
      width: hidden width of a two-layer unit, or 0 for a single linear unit.
      layer_activation: activation of a unit.
      mixer_activation: activation of the mask.
      initialisation: "unit" or "published".
      dropout: probability of dropping a unit and a mask value during training.
      token: "before" reads the state that predicts the token, "after" the state that has read it.
      binary: 1 where the raw score is positive, else 0.
      top: share of the response tokens to keep, 1 for all.
      floor: added to every mask value.
      normalise: divide by the mean over the response.
    """

    layers: tuple[int, ...]
    mixed: bool = True
    width: int = 0
    layer_activation: str = "relu"
    mixer_activation: str = "relu"
    initialisation: str = "unit"
    dropout: float = 0.0
    token: str = "before"
    binary: bool = False
    top: float = 1.0
    floor: float = 0.0
    normalise: bool = False


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
    found = tuple(layer % count for layer in layers)
    if len(set(found)) != len(found):
        raise UserError(f"option layers: got {text!r}, expected every layer once")
    return found


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
      design: how the mask is built.
      generator: source of the initial weights.

    Source: arXiv 2410.05102, equation 9; upstream ``mask_models.py`` (simple_*, ml_*, binary_*).
    """

    def __init__(
        self, shape: ReferenceShape, design: MaskDesign, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.design, self.eps, self.expected_layers = design, shape.layer_norm_eps, shape.layers
        units, hidden = len(design.layers), shape.hidden_size

        def normal(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*size, generator=generator) * shape.initializer_range)

        unit = design.initialisation == "unit"
        self.weight = normal(units, design.width or hidden)
        self.bias = nn.Parameter(torch.full((units,), float(unit)))
        if design.width:
            self.inner_weight = normal(units, design.width, hidden)
            self.inner_bias = nn.Parameter(torch.zeros(units, design.width))
        if design.mixed:
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
        design = self.design
        dtype = torch.promote_types(torch.float32, self.weight.dtype)
        total: Tensor | None = None
        for unit, layer in enumerate(design.layers):
            hidden = hidden_states[layer]
            score = self._score(unit, hidden[:, 1:] if design.token == "after" else hidden[:, :-1], dtype)
            if design.mixed:
                score = self._drop(shaping.activate(design.layer_activation, score, response_mask))
                score = self.mixer[unit].to(dtype) * score
            total = score if total is None else total + score
        assert total is not None
        return self._shape(total, response_mask)

    def _score(self, unit: int, state: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw score of one unit, [rows, seq - 1]."""
        state = state.to(dtype)
        if self.design.mixed:
            gain, shift = self.norm_weight.to(dtype), self.norm_bias.to(dtype)
            state = functional.layer_norm(state, gain.shape, gain, shift, self.eps)
        if self.design.width:
            state = torch.relu(state @ self.inner_weight[unit].to(dtype).T + self.inner_bias[unit].to(dtype))
        return state @ self.weight[unit].to(dtype) + self.bias[unit].to(dtype)

    def _shape(self, score: Tensor, response_mask: Tensor) -> Tensor:
        """Turn raw scores into the mask."""
        design = self.design
        if design.binary:
            mask = shaping.binarise(score)
        else:
            mask = shaping.activate(design.mixer_activation, score, response_mask)
        mask = self._drop(mask)
        if design.top < 1:
            mask = shaping.keep_top(mask, design.top, response_mask)
        if design.floor:
            mask = mask + design.floor
        return shaping.to_mean_one(mask, response_mask) if design.normalise else mask

    def _drop(self, value: Tensor) -> Tensor:
        dropout = self.design.dropout
        return functional.dropout(value, dropout, self.training) if dropout else value

    def _check(self, hidden_states: tuple[Tensor, ...]) -> None:
        width = self.inner_weight.shape[-1] if self.design.width else self.weight.shape[-1]
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
      design: how each mask is built.
      independent: two modules instead of one.
      on_reward: learn the reward mask; otherwise it is 1 everywhere.
      on_kl: learn the KL mask; otherwise it is 1 everywhere.
      seed: seed of the initial weights; equal on all processes.
    """

    def __init__(
        self,
        shape: ReferenceShape,
        design: MaskDesign,
        *,
        independent: bool = False,
        on_reward: bool = True,
        on_kl: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (on_reward or on_kl):
            raise ValueError("at least one of on_reward and on_kl must be true")
        generator = torch.Generator().manual_seed(seed)
        used = ["common"] if on_reward and on_kl and not independent else []
        used = used or [name for name, on in (("reward", on_reward), ("kl", on_kl)) if on]
        self.by_term = nn.ModuleDict({name: LearnedMask(shape, design, generator) for name in used})

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
