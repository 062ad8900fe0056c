"""The learned mask of SparsePO: a few units on the reference model's hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsepo_plugin.types import Masks, ReferenceShape, ReferenceState

ACTIVATIONS = ("relu", "none")
INITIALISATIONS = ("unit", "published")


def _activate(name: str, value: Tensor) -> Tensor:
    return torch.relu(value) if name == "relu" else value


class LearnedMask(nn.Module):
    """One mask: m = act(sum_l v_l act(w_l . LayerNorm(h_l) + b_l)), or act(w . h_L + b) for ``last``.

    The LayerNorm's gain and bias are shared by all layers; the mixer v has no bias. All parameters sit on
    this module itself, so that ZeRO-3 gathers them when it is called. The arithmetic is done in
    max(float32, dtype of the parameters): a bfloat16 mask would be exact only to 3 digits.

    Args:
      shape: sizes of the reference model.
      layers: "all" or "last".
      layer_activation: activation of the units ("all" only).
      mixer_activation: activation of the mask.
      dropout: probability of dropping a unit and a mask value during training, in [0, 1).
      initialisation: "published" draws w and v like the model's own weights, with b = 0: masks start near 0
        (an effective beta 25 to 45 times smaller) and, in small models, often at exactly 0, where no gradient
        revives them. "unit" sets b = 1 and v = 1/L, so that masks start near 1, at TDPO.
      generator: source of the initial weights.

    Source: arXiv 2410.05102, equation 9; upstream ``mask_models.py`` (simple_all, simple_last).
    """

    def __init__(
        self,
        shape: ReferenceShape,
        *,
        layers: str = "all",
        layer_activation: str = "relu",
        mixer_activation: str = "relu",
        dropout: float = 0.0,
        initialisation: str = "unit",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.all_layers = layers == "all"
        self.layer_activation, self.mixer_activation = layer_activation, mixer_activation
        self.eps, self.dropout = shape.layer_norm_eps, dropout
        units = shape.layers if self.all_layers else 1
        scale = shape.initializer_range

        def normal(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*size, generator=generator) * scale)

        self.weight = normal(units, shape.hidden_size)
        unit = initialisation == "unit"
        self.bias = nn.Parameter(torch.full((units,), float(unit)))
        if self.all_layers:
            self.mixer = nn.Parameter(torch.full((units,), 1 / units)) if unit else normal(units)
            self.norm_weight = nn.Parameter(torch.ones(shape.hidden_size))
            self.norm_bias = nn.Parameter(torch.zeros(shape.hidden_size))

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Parameters under weight decay: weights, not biases and norms."""
        return [self.weight, self.mixer] if self.all_layers else [self.weight]

    def forward(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """Weigh every token by the state that predicts it.

        Args:
          hidden_states: outputs of blocks 1..L, each [rows, seq, hidden].

        Returns:
          [rows, seq - 1]; >= 0 with the relu mixer activation. Not restricted to the response.

        Raises:
          ValueError: the number or width of the states differs from the module's.
        """
        dtype = torch.promote_types(torch.float32, self.weight.dtype)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        if self.all_layers and len(hidden_states) != len(weight):
            raise ValueError(f"expected hidden states of {len(weight)} layers: got {len(hidden_states)}")
        if hidden_states[-1].shape[-1] != weight.shape[1]:
            raise ValueError(
                f"expected hidden states of width {weight.shape[1]}: got {hidden_states[-1].shape[-1]}"
            )
        if not self.all_layers:
            state = hidden_states[-1][:, :-1].to(dtype)
            return self._drop(_activate(self.mixer_activation, state @ weight[0] + bias[0]))
        gain, shift, mixer = (p.to(dtype) for p in (self.norm_weight, self.norm_bias, self.mixer))
        total = hidden_states[0].new_zeros((), dtype=dtype)
        for layer, hidden in enumerate(hidden_states):
            state = functional.layer_norm(hidden[:, :-1].to(dtype), gain.shape, gain, shift, self.eps)
            unit = _activate(self.layer_activation, state @ weight[layer] + bias[layer])
            total = total + mixer[layer] * self._drop(unit)
        return self._drop(_activate(self.mixer_activation, total))

    def _drop(self, value: Tensor) -> Tensor:
        return functional.dropout(value, self.dropout, self.training) if self.dropout else value


class LearnedMasks(nn.Module):
    """The two masks of SparsePO from one common or two independent LearnedMask modules.

    Args:
      shape: sizes of the reference model.
      independent: two modules instead of one.
      on_reward: learn the reward mask; otherwise it is 1 everywhere.
      on_kl: learn the KL mask; otherwise it is 1 everywhere.
      layers: see LearnedMask.
      layer_activation: see LearnedMask.
      mixer_activation: see LearnedMask.
      dropout: see LearnedMask.
      initialisation: see LearnedMask.
      seed: seed of the initial weights; equal on all processes.
    """

    def __init__(
        self,
        shape: ReferenceShape,
        *,
        independent: bool = False,
        on_reward: bool = True,
        on_kl: bool = True,
        layers: str = "all",
        layer_activation: str = "relu",
        mixer_activation: str = "relu",
        dropout: float = 0.0,
        initialisation: str = "unit",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (on_reward or on_kl):
            raise ValueError("at least one of on_reward and on_kl must be true")
        self.on_reward, self.on_kl = on_reward, on_kl
        generator = torch.Generator().manual_seed(seed)
        used = ["common"] if on_reward and on_kl and not independent else []
        used = used or [name for name, on in (("reward", on_reward), ("kl", on_kl)) if on]
        self.modules_by_term = nn.ModuleDict(
            {
                name: LearnedMask(
                    shape,
                    layers=layers,
                    layer_activation=layer_activation,
                    mixer_activation=mixer_activation,
                    dropout=dropout,
                    initialisation=initialisation,
                    generator=generator,
                )
                for name in used
            }
        )

    def forward(self, reference: ReferenceState) -> Masks:
        """Masks of both terms, [2 * pairs, seq - 1]; a common mask is the same tensor twice."""
        values = {name: module(reference.hidden_states) for name, module in self.modules_by_term.items()}
        if "common" in values:
            return Masks(values["common"], values["common"])
        ones = torch.ones_like(next(iter(values.values())))
        return Masks(values.get("reward", ones), values.get("kl", ones))

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Parameters under weight decay."""
        found: list[nn.Parameter] = []
        for module in self.modules_by_term.values():
            assert isinstance(module, LearnedMask)
            found += module.decayed_parameters()
        return found
