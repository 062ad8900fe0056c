"""Which output of a natural-language-inference model means what: read from its configuration."""

import re
from typing import Any, NamedTuple

from eval_harness.errors import UserError
from eval_harness.faithfulness.text.sentences import words_of

# Names in use, without case and signs. VitaminC and FEVER models say SUPPORTS, REFUTES, NOT ENOUGH INFO.
_ENTAILMENT = words_of("entailment entail entails entailed e supports supported support")
_CONTRADICTION = words_of("contradiction contradict contradicts contradictory c refutes refuted refute")
_NEUTRAL = words_of("neutral n notenoughinfo nei unknown")
_OTHER = words_of("notentailment nonentailment notentailed notsupported unsupported notsupports")


class Labels(NamedTuple):
    """Output numbers; `contradiction` is None in a model that only tells entailment from the rest."""

    entailment: int
    contradiction: int | None


def read_labels(config: Any, option: str, scorer: str) -> Labels:
    """Find entailment and contradiction among the outputs.

    Args:
      config: the model's configuration; its id2label is read.
      option: names in the order of the outputs, joined by commas, or empty: the configuration's.
      scorer: named in messages.

    Raises:
      UserError: names that are not those of an NLI model.
    """
    given = [name.strip() for name in option.split(",")] if option else None
    names = given or [str(config.id2label[i]) for i in range(len(config.id2label))]
    plain = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    entailment = [i for i, name in enumerate(plain) if name in _ENTAILMENT]
    contradiction = [i for i, name in enumerate(plain) if name in _CONTRADICTION]
    rest = [i for i, name in enumerate(plain) if name in _NEUTRAL | _OTHER]
    known = sorted([*entailment, *contradiction, *rest]) == list(range(len(names)))
    if len(names) != len(config.id2label) or not known or len(entailment) != 1 or len(contradiction) > 1:
        raise UserError(
            f"scorer {scorer}: the model's labels are not those of an NLI model",
            got=", ".join(names),
            expected="entailment, contradiction, neutral (or supports, refutes, not enough info)",
            remedy="another model, or --scorer-option labels=NAME,NAME,... in the order of its outputs",
        )
    return Labels(entailment[0], contradiction[0] if contradiction else None)
