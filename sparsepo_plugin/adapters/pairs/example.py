"""One pair as a model reads it, for people."""

from __future__ import annotations

from typing import Any

_SHOWN = 24  # tokens at the beginning, and at the end, of a long part


def show_example(pair: dict[str, Any], tokenizer: Any) -> list[str]:
    """A pair's lines: tokens between bars, what is trained as response apart.

    Args:
      pair: a row of PreparedPairs.
      tokenizer: writes the tokens.
    """
    sides = [(name, pair[name], pair[f"{name}_start"]) for name in ("chosen", "rejected")]
    prompts = [ids[:start] for _, ids, start in sides]
    lines = [f"example, row {pair['row']}; tokens between bars, losses read the responses only:"]
    for number, (name, ids, start) in enumerate(sides):
        if number == 0 or prompts[1] != prompts[0]:
            lines.append(f"  prompt of {name}" if prompts[1] != prompts[0] else "  prompt")
            lines[-1] += f" ({start}): {_bars(prompts[number], tokenizer)}"
        lines.append(f"  {name} response ({len(ids) - start}): {_bars(ids[start:], tokenizer)}")
    return lines


def _bars(ids: list[int], tokenizer: Any) -> str:
    # Line ends are written out, so that every part stays on its line.
    words = [repr(tokenizer.decode([token]))[1:-1] for token in ids]
    left_out = len(words) - 2 * _SHOWN
    if left_out > 0:
        words = [*words[:_SHOWN], f"... {left_out} more ...", *words[-_SHOWN:]]
    return f"|{'|'.join(words)}|"
