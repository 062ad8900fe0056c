"""What ``sparsepo validate`` prints of a run that can start: its data, its steps, its memory, one example."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.openrlhf.data_check import EVALUATION, TRAINING
from sparsepo_plugin.adapters.openrlhf.memory_estimate import estimate
from sparsepo_plugin.adapters.openrlhf.preflight import Examined
from sparsepo_plugin.adapters.pairs.account import Account

_SHOWN = 24  # tokens at the beginning, and at the end, of a long part


def describe(examined: Examined, arguments: SimpleNamespace, processes: int) -> list[str]:
    """Lines for a person.

    Args:
      examined: what the preflight found.
      arguments: upstream's arguments.
      processes: of the run.
    """
    found = [*examined.notes]
    for flag, value in ((TRAINING, arguments.data.dataset), (EVALUATION, arguments.eval.dataset)):
        if flag in examined.data:
            found += examined.data[flag].account.lines(f"{flag} {value}")
    training = examined.data[TRAINING]
    found += [_steps(training.account, arguments.train), _memory(examined, arguments, processes)]
    return found + show_example(training.pairs[0], examined.tokenizer)


def _steps(account: Account, train: SimpleNamespace) -> str:
    steps = account.kept // train.batch_size
    return (
        f"steps: {steps * train.max_epochs} ({train.max_epochs} x {account.kept} pairs in batches of "
        f"{train.batch_size}); tokens: {account.tokens:,} an epoch, {account.response_tokens:,} of them in "
        f"responses; longest row: {account.longest}"
    )


def _memory(examined: Examined, arguments: SimpleNamespace, processes: int) -> str:
    longest = max(prepared.account.longest for prepared in examined.data.values())
    found = estimate(arguments, examined.policy, examined.reference, longest, processes)
    parts = ", ".join(f"{name} {_gib(value)}" for name, value in found._asdict().items())
    return f"memory: about {_gib(sum(found))} GiB a process, an estimate ({parts})"


def _gib(size: float) -> str:
    value = size / 2**30
    return f"{value:.3f}" if value < 0.1 else f"{value:.1f}"


def show_example(pair: dict[str, Any], tokenizer: Any) -> list[str]:
    """A pair as the model reads it: tokens between bars, what is trained as response apart.

    Args:
      pair: a row of PreparedPairs.
      tokenizer: writes the tokens.
    """
    sides = [(name, pair[name], pair[f"{name}_start"]) for name in ("chosen", "rejected")]
    prompts = [ids[:start] for _, ids, start in sides]
    found = [f"example, row {pair['row']}; tokens between bars, losses read the responses only:"]
    for number, (name, ids, start) in enumerate(sides):
        if number == 0 or prompts[1] != prompts[0]:
            found.append(f"  prompt of {name}" if prompts[1] != prompts[0] else "  prompt")
            found[-1] += f" ({start}): {_bars(prompts[number], tokenizer)}"
        found.append(f"  {name} response ({len(ids) - start}): {_bars(ids[start:], tokenizer)}")
    return found


def _bars(ids: list[int], tokenizer: Any) -> str:
    # Line ends are written out, so that every part stays on its line.
    words = [repr(tokenizer.decode([token]))[1:-1] for token in ids]
    left_out = len(words) - 2 * _SHOWN
    if left_out > 0:
        words = [*words[:_SHOWN], f"... {left_out} more ...", *words[-_SHOWN:]]
    return f"|{'|'.join(words)}|"
