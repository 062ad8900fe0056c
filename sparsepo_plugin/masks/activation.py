"""MaPO: masks read off the reference model's activations; nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsepo_plugin.forward.activations import GROUPS
from sparsepo_plugin.masks.shaping import rescale
from sparsepo_plugin.types import Masks, ReferenceState


def activation_mask(recordings: Mapping[str, Tensor], response_mask: Tensor) -> Tensor:
    """Mask from named recordings: rescale each to [0, 1], mean per group, mean over the groups.

    The min-max over the response tokens of a row makes the mask blind to scale and offset of a recording.
    The release first standardises, which changes nothing, and rounds to float16, which adds noise.

    Args:
      recordings: feature means [rows, seq] by name; what stands before the first dot is the group. The last
        position, which predicts nothing, is dropped.
      response_mask: true on response tokens, [rows, seq - 1], bool.

    Returns:
      [rows, seq - 1], in [0, 1], 0 outside the response. Where a recording has no contrast over a response
      (one token, or a constant) it contributes 1 for every token.

    Raises:
      ValueError: no recording, an unknown group, or another shape than the response mask asks for.

    Source: arXiv 2410.05102, section 3.2; upstream ``mapo_trainer.py``, mapping ``zn_rescale``.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, value in recordings.items():
        group = name.split(".")[0]
        if group not in GROUPS:
            raise ValueError(
                f"recording {name!r}: expected a group of {', '.join(GROUPS)} before the first dot"
            )
        if value[:, :-1].shape != response_mask.shape:
            raise ValueError(
                f"recording {name!r} must be [rows, seq] with seq - 1 = {response_mask.shape[1]}: "
                f"got {tuple(value.shape)}"
            )
        groups.setdefault(group, []).append(value[:, :-1])
    if not groups:
        raise ValueError("activation_mask needs at least one recording: got none")
    # The sites of a group at once: one by one, hundreds of them would be thousands of small operations.
    means = [rescale(torch.stack(values), response_mask).mean(0) for values in groups.values()]
    return torch.stack(means).mean(0)


class ActivationMasks(nn.Module):
    """One mask for both terms from the recorded activations; has no parameters."""

    def forward(self, reference: ReferenceState) -> Masks:
        """Masks in [0, 1], [2 * pairs, seq - 1].

        Raises:
          ValueError: the adapter did not supply activations.
        """
        if reference.activations is None:
            raise ValueError("MaPO needs activations of the reference: got None")
        mask = activation_mask(reference.activations, reference.response_mask)
        return Masks(mask, mask)
