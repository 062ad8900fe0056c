"""Log-probabilities of the reference that were computed before the training: for which losses, in what form.

Both trainers keep one number per response token. A row holds them from the first token on that something
predicts, with nan up to the width of its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.pair_statistics import statistics
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow
from sparsepo_plugin.types import Needs


def possible(needs: Needs) -> bool:
    """Whether the reference's log-probabilities are all that a loss and its masks read of it."""
    return not (needs.token_kl or needs.hidden_states or needs.activations)


def check(needs: Needs, option: str, chosen: str) -> None:
    """Refuse log-probabilities computed before the training where they are not enough.

    Args:
      needs: of the loss with its options.
      option: what asks for them, for the message.
      chosen: what names the loss.

    Raises:
      UserError: the loss or its masks read more of the reference.
    """
    if not possible(needs):
        raise UserError(
            f"{option}: got True, expected False with {chosen}: it reads more of the reference than "
            f"log-probabilities (KL, hidden states or activations), too large to store; drop {option}"
        )


def rows_of(reference: ModelOutput, columns: int | None = None) -> Tensor:
    """The numbers of a batch, [2 * pairs, columns], chosen rows first.

    Args:
      reference: the reference's view of the batch.
      columns: width to fill with nan; default: that of the longest response.
    """
    stats = statistics(reference, None, with_kl=False)
    columns = int(stats.response_mask.sum(1).max()) if columns is None else columns
    rows = stats.policy_logps.new_full((len(stats.policy_logps), columns), torch.nan)
    rows[_to_the_left(stats.response_mask, columns)] = stats.policy_logps[stats.response_mask]
    return rows


def in_window(stored: Tensor, window: ResponseWindow, named: str) -> Tensor:
    """What ``rows_of`` gave, in the window's layout, [2 * pairs, width - 1]; 0 where there is no token.

    Args:
      stored: rows of the batch, [2 * pairs, columns].
      window: where the responses lie.
      named: what holds the numbers and what to do about it, for the message.

    Raises:
      UserError: other responses than those that the numbers were computed for.
    """
    response_mask = window.labels[:, 1:] != IGNORE_INDEX
    numbers = ~stored.isnan()
    if stored.ndim != 2 or not torch.equal(numbers.sum(1), response_mask.sum(1)):
        raise UserError(
            f"{named}: got log-probabilities of other responses than the batch's, expected a number per "
            f"response token"
        )
    found = stored.new_zeros(response_mask.shape)
    found[response_mask] = stored[numbers]
    return found


def _to_the_left(response_mask: Tensor, columns: int) -> Tensor:
    """True in the first places of every row, as many as it has response tokens, [rows, columns]."""
    return torch.arange(columns, device=response_mask.device) < response_mask.sum(1, keepdim=True)
