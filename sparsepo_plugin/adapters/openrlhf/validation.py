"""What ``sparsepo validate`` prints of a run that can start: its data, its steps, its memory, one example."""

from __future__ import annotations

from types import SimpleNamespace

from sparsepo_plugin.adapters.openrlhf.data_check import EVALUATION, TRAINING
from sparsepo_plugin.adapters.openrlhf.memory_estimate import estimate
from sparsepo_plugin.adapters.openrlhf.preflight import Examined
from sparsepo_plugin.adapters.pairs.account import Account
from sparsepo_plugin.adapters.pairs.example import show_example


def describe(examined: Examined, arguments: SimpleNamespace, processes: int) -> list[str]:
    """Lines for a person.

    Args:
      examined: what the preflight found.
      arguments: upstream's arguments.
      processes: of the run.
    """
    report = [*examined.notes]
    for flag, value in ((TRAINING, arguments.data.dataset), (EVALUATION, arguments.eval.dataset)):
        if flag in examined.data:
            report += examined.data[flag].account.lines(f"{flag} {value}")
    training = examined.data[TRAINING]
    report += [_steps(training.account, arguments.train), _memory(examined, arguments, processes)]
    return report + show_example(training.pairs[0], examined.tokenizer)


def _steps(account: Account, train: SimpleNamespace) -> str:
    draws = train.max_epochs * account.kept
    rest = draws % train.batch_size
    left = f"; the last {rest} of {draws} draws fill no batch and reach no step" if rest else ""
    return (
        f"steps: {draws // train.batch_size} ({train.max_epochs} x {account.kept} pairs in batches of "
        f"{train.batch_size}); tokens: {account.tokens:,} an epoch, "
        f"{account.response_tokens:,} of them in responses; longest row: {account.longest}{left}"
    )


def _memory(examined: Examined, arguments: SimpleNamespace, processes: int) -> str:
    longest = max(prepared.account.longest for prepared in examined.data.values())
    needed = estimate(arguments, examined.policy, examined.reference, longest, processes)
    parts = ", ".join(f"{name} {_gib(value)}" for name, value in needed._asdict().items())
    return f"memory: about {_gib(sum(needed))} GiB a process, an estimate ({parts})"


def _gib(size: float) -> str:
    value = size / 2**30
    return f"{value:.3f}" if value < 0.1 else f"{value:.1f}"
