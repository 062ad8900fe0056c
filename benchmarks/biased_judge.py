"""A judge with a known fault, to see what `eval-harness agreement` says of one.

It prefers the longer text where one is longer by more than a fifth, else whatever it is shown first:

  eval-harness agreement --judge function --judge-set function=benchmarks/biased_judge.py:judge --data FILE
"""


def judge(prompt: str, first: str, second: str) -> float:
    """Share of the win that goes to the first text."""
    shorter, longer = sorted((len(first), len(second)))
    if longer > 1.2 * shorter:
        return float(len(first) > len(second))
    return 1.0
