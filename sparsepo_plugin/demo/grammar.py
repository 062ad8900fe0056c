"""Words and grammar of the demo's toy English: tables, and the exact probabilities they imply.

A response is a walk through *states*. Each state draws from one word class, the classes share no word, and no
two successors of a state share a class, so the words reveal the walk. In the modifier states the word is
*planted* with the state's probability: a polar word in place of an ordinary adjective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain

MIN_WORDS, MAX_WORDS = 12, 36
POLARITY = 0.85  # P(good | planted, chosen) = P(bad | planted, rejected)
TOPIC_SHARE = 0.8  # share of persons, things and verbs drawn from the prompt's own topic

# How strongly a request invites judgement: it scales the planting rate, so a good mask reads the prompt too.
CANDOUR = {"recall": 0.6, "describe": 0.9, "picture": 1.1, "review": 1.4}
COUNTS = ("one", "another")
TOPICS = ("garden", "kitchen", "harbor", "workshop", "stage", "mountain")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GOOD = _words("wonderful excellent brilliant delightful superb charming splendid marvelous")
BAD = _words("terrible awful dreadful horrible dismal shoddy wretched miserable")
POLAR = frozenset(GOOD + BAD)

# In the topical classes every topic owns an equal run of consecutive words, in the order of TOPICS.
WORDS: dict[str, tuple[str, ...]] = {
    "determiner": _words("the a this that our every some each"),
    "adjective": _words(
        "small large old new tall short round wooden red blue green yellow quiet heavy light narrow wide "
        "plain dark striped metal dry smooth thick"
    ),
    "person": _words(
        "gardener florist neighbor botanist cook baker waiter guest sailor captain fisher porter carpenter "
        "mechanic welder apprentice singer drummer dancer pianist climber ranger hiker guide"
    ),
    "thing": _words(
        "rose hedge tulip fence pond lawn soup loaf pan spoon pie oven boat anchor rope net crate pier "
        "engine chair hammer table wheel cabinet song drum piano curtain microphone melody "
        "trail peak tent cabin ridge glacier"
    ),
    "verb": _words(
        "waters prunes plants trims digs harvests bakes stirs tastes slices serves salts "
        "loads moors paints scrubs tows unloads repairs drills polishes assembles measures sands "
        "plays sings rehearses records tunes performs climbs crosses maps photographs guards explores"
    ),
    "link": ("is", "seems", "looks", "feels", "stays"),
    "degree": ("very", "quite", "rather", "truly", "fairly"),
    "manner": _words("slowly again today often calmly later early together twice alone nearby daily"),
    "preposition": ("with", "near", "beside", "under", "behind", "toward"),
    "conjunction": ("and", "while", "but"),
    "stop": (".", "!"),
}
_TOPICAL = ("person", "thing", "verb")

END = "end"
# state: (word class, P(planted) before CANDOUR, {next state: probability})
GRAMMAR: dict[str, tuple[str, float, dict[str, float]]] = {
    "start": ("", 0.0, {"determiner": 0.8, "opening": 0.2}),
    "opening": ("manner", 0.0, {"determiner": 1.0}),
    "determiner": ("determiner", 0.0, {"person": 0.55, "modifier": 0.45}),
    "modifier": ("adjective", 0.35, {"person": 0.85, "modifier": 0.15}),
    "person": ("person", 0.0, {"verb": 0.45, "link": 0.45, "manner": 0.1}),
    "manner": ("manner", 0.0, {"verb": 1.0}),
    "link": ("link", 0.0, {"complement": 0.45, "degree": 0.3, "preposition": 0.25}),
    "degree": ("degree", 0.0, {"intensified": 1.0}),
    "complement": ("adjective", 0.6, {"stop": 0.65, "preposition": 0.2, "conjunction": 0.15}),
    "intensified": ("adjective", 0.65, {"stop": 0.65, "preposition": 0.2, "conjunction": 0.15}),
    "verb": ("verb", 0.0, {"object determiner": 0.8, "closing": 0.2}),
    "object determiner": ("determiner", 0.0, {"thing": 0.5, "object modifier": 0.5}),
    "object modifier": ("adjective", 0.45, {"thing": 0.85, "object modifier": 0.15}),
    "thing": ("thing", 0.0, {"stop": 0.65, "preposition": 0.2, "conjunction": 0.15}),
    "closing": ("manner", 0.0, {"stop": 0.6, "preposition": 0.25, "conjunction": 0.15}),
    "preposition": ("preposition", 0.0, {"object determiner": 1.0}),
    "conjunction": ("conjunction", 0.0, {"determiner": 1.0}),
    "stop": ("stop", 0.0, {END: 0.45, "determiner": 0.43, "opening": 0.12}),
}


_CLASS_OF = {word: word_class for word_class, words in WORDS.items() for word in words}
_CLASS_OF |= dict.fromkeys(POLAR, "adjective")  # planted words stand in adjective slots


@cache
def _words_to_stop(state: str) -> int:
    """Count the fewest words needed after a word of this state to complete its sentence."""
    frontier, steps = {state}, 0
    while "stop" not in frontier:
        frontier, steps = {after for before in frontier for after in GRAMMAR[before][2]}, steps + 1
    return steps


@cache
def successors(state: str, position: int) -> Mapping[str, float]:
    """Probabilities of the state of word ``position``, given the state of the word before it.

    Both length limits act here, as conditions on the position: no end before MIN_WORDS, and no step from
    which the sentence cannot be completed within MAX_WORDS. Sampler and posterior share this table, so the
    posterior stays exact near the limits.
    """
    allowed = {
        after: weight
        for after, weight in GRAMMAR[state][2].items()
        if (position >= MIN_WORDS if after == END else position + 1 + _words_to_stop(after) <= MAX_WORDS)
    }
    total = sum(allowed.values())
    return {after: weight / total for after, weight in allowed.items()}


@cache
def ordinary_words(word_class: str, topic: str) -> Mapping[str, float]:
    """Probabilities of the words of a class under a topic, planting aside."""
    words = WORDS[word_class]
    if word_class not in _TOPICAL:
        weights = [(rank + 1) ** -0.5 for rank in range(len(words))]
        return {word: weight / sum(weights) for word, weight in zip(words, weights, strict=True)}
    run = len(words) // len(TOPICS)
    topical = words[TOPICS.index(topic) * run :][:run]
    return {word: (1 - TOPIC_SHARE) / len(words) + (word in topical) * TOPIC_SHARE / run for word in words}


def walk(words: Sequence[str]) -> Iterator[tuple[Mapping[str, float], str]]:
    """Yield, per word, the probabilities of its state given the words before it, and the state it reveals.

    Raises:
      ValueError: no state allowed here draws the word.
    """
    state = "start"
    for position, word in enumerate(words):
        row = successors(state, position)
        word_class = _CLASS_OF.get(word)
        revealed = next((after for after in row if after != END and GRAMMAR[after][0] == word_class), None)
        if revealed is None:
            raise ValueError(
                f"word {position} is {word!r} after {' '.join(words[:position])!r}; expected a word for one "
                f"of {sorted(row)}. Pass the words of a response from generate_pairs."
            )
        yield row, revealed
        state = revealed


def vocabulary() -> list[str]:
    """Return every word a prompt or a response can hold, in a fixed order, without special tokens."""
    return [*CANDOUR, *COUNTS, *TOPICS, "scene", ":", *GOOD, *BAD, *chain.from_iterable(WORDS.values())]
