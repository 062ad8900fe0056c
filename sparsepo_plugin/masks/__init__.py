"""One file per mask source, one decorator each: modules from the reference's state to weights per token.

The registry imports, and so registers, every file here. ``ones`` and ``activation`` are the masks of other
losses than SparsePO, which build them themselves; ``shaping`` is arithmetic.
"""
