"""What judging will take, before a text is written or a question asked."""

from collections.abc import Sequence

from eval_harness.judges.ask import open_questions
from eval_harness.judges.types import Judge
from eval_harness.models.answer_store import AnswerStore
from eval_harness.win_rate.comparisons import Comparison, questions
from eval_harness.win_rate.preset import WinRatePreset
from eval_harness.win_rate.texts import Slot

_CHARACTERS = 4  # a token of English text, roughly


def estimate(
    prompts: Sequence[str],
    slots: Sequence[Slot],
    known: Sequence[Sequence[str | None]],
    judge: Judge,
    store: AnswerStore,
    preset: WinRatePreset,
) -> str:
    """One clause: calls, tokens and cost of the judge.

    Args:
      prompts: all of them.
      slots: the texts of each side, [slots].
      known: the candidate's and the baseline's texts, None where not written yet, [2][slots].
      judge: who would be asked.
      store: holds judgements that need not be asked again.
      preset: its maximum of new tokens stands for a text that is not there.
    """
    unknown = any(text is None for side in known for text in side)
    pairs = []
    for slot, mine, other in zip(slots, *known, strict=True):
        ours = _stand_in(mine, "candidate", slot, preset)
        theirs = _stand_in(other, "baseline", slot, preset)
        pairs.append(Comparison(slot.task, slot.doc_id, prompts[slot.prompt], ours, theirs))
    asked = questions(pairs)
    open_ones = open_questions(judge, asked, store)
    cost = judge.cost(list(open_ones.values()))
    bound = "at most " if unknown else ""
    stored = f" ({len(asked) - len(open_ones)} stored or equal)" if len(asked) > len(open_ones) else ""
    price = "the judge names no prices" if cost.price is None else f"cost {bound}{cost.price:.2f}"
    return (
        f"judge {judge.label}: {bound}{cost.calls} calls{stored}, about {cost.prompt_tokens} tokens in, "
        f"at most {cost.answer_tokens} out; {price}"
    )


def _stand_in(text: str | None, side: str, slot: Slot, preset: WinRatePreset) -> str:
    """The text, or one of the greatest length that is no other slot's."""
    if text is not None:
        return text
    mark = f"{side} {slot.task} {slot.doc_id} "
    return mark + "x" * max(0, _CHARACTERS * preset.sampling.max_new_tokens - len(mark))
