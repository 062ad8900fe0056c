"""An answer that says nothing is never kept, whatever it looks like; one that says little is no error."""

import json
import random

import pytest

import eval_harness.faithfulness.scorers  # noqa: F401 - registers them
from eval_harness.cli.app import main
from eval_harness.faithfulness.examples import Device, Example
from eval_harness.faithfulness.registry import ScorerSpec, build_scorer

from .summary_server import Summariser

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]


def word(rng):
    return "".join(rng.choices(SYLLABLES, k=3))


def sentence(rng):
    return (
        f"{word(rng).title()} {word(rng)} the {word(rng)} of {word(rng).title()} and {word(rng)} "
        f"{rng.randint(2, 900)} {word(rng)}."
    )


DOCUMENTS = [" ".join(sentence(random.Random(10 * i + j)) for j in range(5)) for i in range(60)]
NOTHING = {
    "an empty text": lambda document: "",
    "dots": lambda document: "...",
    "I do not know": lambda document: "I do not know.",
    "a refusal": lambda document: "As a language model I am unable to summarise texts like this one.",
    "a refusal in another language": lambda document: "मुझे इसका सारांश नहीं पता।",
    "a formula that fits any text": lambda document: "The text tells what happened and how people took it.",
    "function words": lambda document: "the of and in to a the of and",
    "the end of the prompt": lambda document: "TL;DR:",
    "a title": lambda document: document.split()[0],
    "one word thirty times": lambda document: " ".join([document.split()[0]] * 30),
    "what the document has most": lambda document: "the of and the of and.",
    "the summary of another document": lambda document: DOCUMENTS[DOCUMENTS.index(document) - 1].partition(
        ". "
    )[0],
}


class Answers(Summariser):
    """Answers with `say(document, seed)`."""

    def __init__(self, say):
        super().__init__()
        self.say = say

    def summary(self, body):
        return self.say(body["messages"][-1]["content"].removesuffix("\n\nTL;DR:"), body.get("seed"))


def two_sentences(document, seed):
    return " ".join(random.Random(f"{seed} {document}").sample(document.split(". "), 2)).rstrip(".") + "."


@pytest.fixture(scope="module")
def verdict(tmp_path_factory):
    """verdict(what the candidate says of a document) -> exit code and verdicts of the shipped gates."""
    folder = tmp_path_factory.mktemp("contentless")
    docs = folder / "documents.jsonl"
    docs.write_text("".join(json.dumps({"document": document}) + "\n" for document in DOCUMENTS))
    with Answers(two_sentences) as baseline:

        def call(say):
            out = folder / f"run-{len(list(folder.iterdir()))}"
            with Answers(say) as candidate:
                models = ["--model", candidate.url, "--baseline", baseline.url, "--endpoint", "chat"]
                more = ["--model-id", "m", "--documents", docs, "--generation", "samples=2", "--out", out]
                args = ["run", "--suites", "faithfulness:summaries", *models, *more, "--device", "cpu"]
                assert main([*map(str, args), "--cache", str(folder / "cache"), "--concurrency", "8"]) == 0
            code = main(["gate", str(out), "--gates", "summaries"])
            gates = json.loads((out / "report" / "report.json").read_text())["gates"]
            return code, {gate["name"]: gate["verdict"] for gate in gates}

        yield call


def test_a_model_as_good_as_its_baseline_is_kept(verdict):
    assert verdict(lambda document, seed: two_sentences(document, f"other {seed}"))[0] == 0


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "I do not know" else pytest.param(kind, marks=pytest.mark.slow) for kind in NOTHING],
)
def test_an_answer_that_says_nothing_is_never_kept(verdict, kind):
    code, gates = verdict(lambda document, seed: NOTHING[kind](document))
    assert code == 1
    assert gates["content"] == "REGRESSED"
    if kind == "I do not know":  # without names and numbers it was right in all of them
        assert (gates["names"], gates["numbers"]) == ("REGRESSED", "REGRESSED")


@pytest.mark.slow
def test_two_models_that_say_nothing_are_not_kept_against_each_other(tmp_path):
    docs = tmp_path / "documents.jsonl"
    docs.write_text("".join(json.dumps({"document": document}) + "\n" for document in DOCUMENTS))
    with Answers(lambda *_: "I do not know.") as ours, Answers(lambda *_: "No idea.") as theirs:
        models = ["--model", ours.url, "--baseline", theirs.url, "--endpoint", "chat", "--model-id", "m"]
        more = ["--documents", docs, "--generation", "samples=2", "--out", tmp_path / "out"]
        args = ["run", "--suites", "faithfulness:summaries", *models, *more, "--device", "cpu"]
        assert main([*map(str, args), "--cache", str(tmp_path / "cache")]) == 0
    assert main(["gate", str(tmp_path / "out"), "--gates", "summaries"]) == 3


def test_the_first_sentence_alone_is_true_and_says_something(verdict):
    """A lead is a summary by these gates; whether it is a good one a judge must say."""
    assert verdict(lambda document, seed: document.partition(". ")[0] + ".")[0] == 0


def content(*summaries, documents=DOCUMENTS[:10], **options):
    scorer = build_scorer(ScorerSpec("content", options), Device("cpu"))
    cases = [Example(documents[0], summaries), *(Example(other, ("",)) for other in documents[1:])]
    return scorer.score(cases)[0].values["content"]


def test_content_by_hand():
    rome, oslo = "Anna sold bread in Rome. It rained all day.", "Boris lost his bread in Oslo. It rained."
    both = (rome, oslo)  # content of the first: anna sold rome day, and in both of them bread rained
    assert content("Anna sold bread.", "Anna, Rome, day: sold.", documents=both) == (2 / 4, 1.0)
    assert content("It rained bread.", "", "Rome", documents=both, enough=2) == (0.0, 0.0, 1 / 2)
    assert content("Anna sold bread.", documents=(rome,)) == (pytest.approx(3 / 5),)


@pytest.mark.parametrize(
    "document",
    [
        "मुंबई में भारी बारिश के कारण सैकड़ों उड़ानें रद्द कर दी गईं।",
        "東京で大雨のため数百便が欠航となった。",
        "Из-за сильного снегопада в Москве отменили десятки рейсов.",
    ],
)
def test_content_is_seen_in_every_script(document):
    others = tuple(f"{n} {text}" for n, text in enumerate(DOCUMENTS[:3]))
    assert content(document, "नहीं पता", "不明", documents=(document, *others)) == (1.0, 0.0, 0.0)


def test_entailment_of_a_summary_that_says_nothing_is_not_gated_at_its_middle():
    from eval_harness.faithfulness.examples import ScoredExample
    from eval_harness.faithfulness.results import Scored, item_records

    class Neutral:
        """Neither entailed nor contradicted."""

        metrics = build_scorer(ScorerSpec("summac-zs", {}), Device("cpu")).metrics

    case = Example(DOCUMENTS[0], ("I do not know.", DOCUMENTS[0]))
    graded = {"t": [ScoredExample({"summac_zs": (0.0, 0.0)})]}
    (item,) = item_records("t", [case], ["p"], [Scored(Neutral(), "d", graded)])
    assert item.metrics == {"summac_zs,none": [0.0, 0.0], "summac_zs,unit": [0.0, 0.5]}
