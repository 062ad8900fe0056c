"""Results that other programs measured: one reader a format, all into the harness's own runs.

A reader is a file with two functions: `is_mine(path, head)` and `read(path, cluster)`. `formats.py` asks all
of them, `pairing.py` makes two runs of what two of them read, and `decide` sees no difference from ours.
"""
