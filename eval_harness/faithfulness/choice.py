"""Options whose value is one of a few words."""

from collections.abc import Sequence

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Example


def one_of(scorer: str, option: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless the option's value is allowed."""
    if value not in allowed:
        raise UserError(f"scorer {scorer}: option {option}", got=value, expected=" or ".join(allowed))


AGAINST = ("reference", "document")


def other_text(case: Example, against: str) -> str:
    """The text that a summary is compared with, by the option `against`."""
    if against == "document":
        return case.document
    assert case.reference is not None  # checked_cases
    return case.reference
