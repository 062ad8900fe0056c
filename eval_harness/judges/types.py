"""Questions to a judge and its answers, of two kinds: which of two texts is better, how good is one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

PAIR, RATING = "pair", "rating"
JUDGED, UNPARSABLE, FAILED = "judged", "unparsable", "failed"


class Question(NamedTuple):
    """Texts by field: `prompt`, `first`, `second` for a pair, the template's own fields for a rating."""

    fields: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a judge said.

    `value` of a pair is the share of the win that goes to the first text (1, 0, one half for a tie, or a
    probability), of a rating the template's scale mapped to [0, 1] (a reward model: its score). It is None
    unless `status` is judged. `text` is the judge's own, of a failed one the reason.
    """

    value: float | None
    status: str = JUDGED
    text: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def to_json(self) -> list[Any]:
        """Return a JSON-ready list."""
        return [self.value, self.status, self.text, self.prompt_tokens, self.answer_tokens]


class Cost(NamedTuple):
    """What asking would take. `price` is in the unit of the judge's prices, None where it names none."""

    calls: int
    prompt_tokens: int
    answer_tokens: int
    price: float | None


class Judge(Protocol):
    """Who answers. An answer arrives as soon as it is there, in any order, with its question's place."""

    label: str

    def settings(self) -> dict[str, Any]:
        """All that can change an answer, JSON-ready, without secrets: part of the cache's key."""

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer every question once. Raises UserError where no question can be answered."""

    def cost(self, questions: Sequence[Question]) -> Cost:
        """What asking them would take; nothing is asked."""
