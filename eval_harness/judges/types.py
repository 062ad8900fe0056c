"""Questions to a judge and its answers, of two kinds: which of two texts is better, how good is one."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from eval_harness.files.configs import Config

Kind = Literal["pair", "rating"]
PAIR: Kind = "pair"
RATING: Kind = "rating"
Status = Literal["judged", "unparsable", "failed"]
JUDGED: Status = "judged"
UNPARSABLE: Status = "unparsable"
FAILED: Status = "failed"


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
    status: Status = JUDGED
    text: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Cost(NamedTuple):
    """What asking would take. `price` is in the unit of the judge's prices, None where it names none."""

    calls: int
    prompt_tokens: int = 0
    answer_tokens: int = 0
    price: float | None = 0.0


class Judge(Config):
    """Who answers; a judge's fields are its options.

    An answer arrives as soon as it is there, in any order, with its question's number. `order_free`: the
    order of two texts cannot matter to it.
    """

    order_free: ClassVar[bool] = False

    @property
    @abstractmethod
    def label(self) -> str:
        """A name for reports, without secrets."""

    def check(self) -> None:
        """Raise UserError where nobody would answer; called before texts are written."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that can change an answer, JSON-ready, without secrets: part of the cache's key."""

    @abstractmethod
    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer every question once. Raises UserError where no question can be answered."""

    def cost(self, questions: Sequence[Question]) -> Cost:
        """What asking them would take; nothing is asked."""
        return Cost(len(questions))
