"""The trained part of SummaC-Conv: a histogram of entailments per summary sentence, two small layers."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_harness.errors import UserError, first_line

Floats = NDArray[np.float64]
# Borders of the bins of entailment probability, as published: percentiles over many summaries.
_FINE = (0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.0)
BINS = np.array([0.0, 0.01, 0.02, 0.03, 0.04, 0.07, 0.13, 0.37, *_FINE])
ROWS = 10  # summary sentences that count, as published
_SHAPES = {"mlp.weight": (1, 23), "mlp.bias": (1,), "layer_final.weight": (2, 3), "layer_final.bias": (2,)}
_ADDRESS = "https://github.com/tingofurro/summac/raw/master/summac_conv_vitc_sent_perc_e.bin"
WEIGHTS = "summac_conv_vitc_sent_perc_e.bin"


class Convolution(NamedTuple):
    """Weights of both layers; the last maps three equal features to two classes, of which 1 is faithful."""

    weight: Floats
    bias: float
    final_weight: Floats
    final_bias: Floats

    def per_sentence(self, entailment: Floats) -> Floats:
        """Feature per summary sentence, [sentences].

        Args:
          entailment: probabilities, [document sentences, summary sentences].
        """
        columns = entailment[:, :ROWS].T
        histograms = np.stack([np.histogram(column, bins=BINS)[0] for column in columns])
        features: Floats = histograms @ self.weight + self.bias
        return features

    def probability(self, feature: float) -> float:
        """Softmax of the last layer at the mean feature, class 1."""
        logits = self.final_weight @ np.full(3, feature) + self.final_bias
        return float(1.0 / (1.0 + math.exp(min(700.0, float(logits[0] - logits[1])))))


def weights_path(name: str) -> Path:
    """The file of weights. Raises UserError with the command that fetches the published one."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            "scorer summac-conv: its trained weights are not on this machine",
            got=name,
            expected="a file of weights (.bin or .safetensors)",
            remedy=f"curl -fLO {_ADDRESS}, then --scorer-option weights={WEIGHTS}",
        )
    return path


def load_convolution(path: Path) -> Convolution:
    """Read weights, never code: safetensors, or a torch file limited to tensors.

    Raises:
      UserError: unreadable, anything besides tensors, or tensors of another shape.
    """
    tensors = _read(path)
    shapes = {name: tuple(tensors[name].shape) if name in tensors else None for name in _SHAPES}
    if shapes != _SHAPES:
        wrong = next(name for name in _SHAPES if shapes[name] != _SHAPES[name])
        raise UserError(
            "scorer summac-conv: other weights than those of one NLI model with percentile bins",
            got=f"{wrong} of shape {shapes[wrong]}",
            expected=_SHAPES[wrong],
            remedy=f"curl -fLO {_ADDRESS}",
        )
    plain = {name: tensors[name].double().cpu().numpy() for name in _SHAPES}
    return Convolution(
        plain["mlp.weight"][0],
        float(plain["mlp.bias"][0]),
        plain["layer_final.weight"],
        plain["layer_final.bias"],
    )


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many types, one meaning: these are no weights
        raise UserError(
            "scorer summac-conv: the weights cannot be read",
            got=f"{path.name}: {first_line(error)}",
            expected="a file that holds tensors only",
            remedy=f"curl -fLO {_ADDRESS}",
        ) from error
    return {k: v for k, v in content.items() if hasattr(v, "shape")} if isinstance(content, dict) else {}
