"""Batches of rows of like length: little padding, a bound on memory, results in the order asked."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Deal rows into batches, longest first, so that too large a batch fails at once.

    Args:
      lengths: tokens per row.
      batch_tokens: most rows x longest row of a batch; a longer row gets a batch of its own.

    Yields:
      Row numbers, every row once.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
