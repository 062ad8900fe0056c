"""Which keys of an Axolotl configuration are ours; imports nothing, so that it cannot fail."""

from __future__ import annotations


def looks_ours(key: str) -> bool:
    """Whether a top-level key is one of ours, or one of ours misspelt, which upstream would drop silently."""
    return key.lower().startswith(("preference_lo", "sparsepo", "sparse_po", "sparspo"))
