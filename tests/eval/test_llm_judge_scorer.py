"""The LLM judge as a scorer, through the judge layer and a local server."""

import contextlib
import json
import re
import shutil
import zlib

import pytest

import eval_harness.faithfulness.scorers  # noqa: F401 - registers them
from eval_harness.cli.app import main
from eval_harness.faithfulness.controls import control_pairs
from eval_harness.faithfulness.examples import Device, Example
from eval_harness.faithfulness.registry import ScorerSpec, build_scorer, digest
from eval_harness.faithfulness.scoring import score_all
from eval_harness.models.answer_store import AnswerStore

from .judge_server import Judge

ASKED = re.compile(
    r"\[document (\w+)\]\n(.*?)\n\[end of document \1\].*\[text \1\]\n(.*?)\n\[end of text \1\]", re.DOTALL
)


class Checks(Judge):
    """Says yes when the document holds the text's last word, or what `rates(document, text)` says."""

    rates = None

    def answer(self, body):
        _, document, text = ASKED.search(body["messages"][-1]["content"]).groups()
        word = "yes" if (self.rates or holds_last_word)(document, text) else "no"
        if "unsure" in text:
            word = "who knows"
        choice = {"index": 0, "message": {"role": "assistant", "content": word}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}


def holds_last_word(document, text):
    return text.rstrip(".").split()[-1] in document


@pytest.fixture
def server():
    with Checks(None) as running:
        yield running


def built(server, tmp_path, **options):
    run_on = Device("cpu", answers=tmp_path / "answers.sqlite")
    return build_scorer(ScorerSpec("llm-judge", {"url": server.url, "model": "m", **options}), run_on)


CASE = Example(
    "Anna left for Rome. It rained.", ("Anna left for Rome.", "Anna left for Oslo.", "", "I am unsure.")
)


def test_summaries_are_rated_and_kept(server, tmp_path):
    scorer = built(server, tmp_path)
    scorer.check()
    assert "3 calls" in scorer.cost([CASE])
    assert scorer.score([CASE])[0].values["llm_judge"] == (1.0, 0.0, 0.0, None)
    assert len(server.bodies) == 3  # an empty summary is not asked about
    assert scorer.score([CASE, CASE])[1].values["llm_judge"] == (1.0, 0.0, 0.0, None)
    assert len(server.bodies) == 3  # every answer is on disk
    assert server.url not in json.dumps(scorer.models())


def test_by_sentence_the_weakest_counts_and_is_shown(server, tmp_path):
    summary = "Anna left for Rome. Anna left for Oslo."
    graded = built(server, tmp_path, by_sentence=True).score([Example(CASE.document, (summary,))])[0]
    assert graded.values["llm_judge"] == (0.0,)
    assert graded.evidence[0][0] == ("Anna left for Rome.", "Anna left for Oslo.", 0.0)
    assert digest(built(server, tmp_path, by_sentence=True)) != digest(built(server, tmp_path))


def test_a_sentence_without_a_rating_leaves_its_summary_without(server, tmp_path):
    scorer = built(server, tmp_path, by_sentence=True)
    case = Example(CASE.document, ("Anna left for Rome. I am unsure.", "Anna left for Rome."))
    assert scorer.score([case])[0].values["llm_judge"] == (None, 1.0)


def test_a_question_that_failed_has_no_rating_and_is_asked_again(server, tmp_path):
    server.plan = lambda number: ("garbage",) * 50 if number == 1 else ()
    judge = tmp_path / "judge.yaml"
    judge.write_text(f"judge: http\nurl: {server.url}\nmodel: m\nretries: 0\nbackoff: 0.0\nconcurrency: 1\n")
    scorer = built(server, tmp_path, judge=str(judge))
    first = scorer.score([CASE])[0]
    assert (first.failed, first.values["llm_judge"].count(None)) == (1, 2)
    server.plan = lambda number: ()
    asked = sum(server.answered.values())
    second = scorer.score([CASE])[0]
    assert (second.failed, second.values["llm_judge"]) == (0, (1.0, 0.0, 0.0, None))
    assert sum(server.answered.values()) == asked + 1


PRESET = """
version: 1
suite: faithfulness
prompt: "{document}"
temperatures: [0]
samples: 1
max_new_tokens: 8
scorers: {entity-overlap: {}}
"""
GATES = """
version: 1
gates:
  rating: {tasks: ["*"], metric: "llm_judge,none", margin: 0.1, graded: true}
  names: {tasks: ["*"], metric: "entity_overlap,none", margin: 0.1, graded: true, blocking: false}
"""


@pytest.fixture
def rated(server, tmp_path, monkeypatch):
    """rated(candidate's word by document, baseline's, *options) -> exit code of the gate, its two verdicts.

    Sixty documents; a model's summary is "Anna left in N for WORD N", of which one document holds "RomeN".
    """
    monkeypatch.setenv("EVAL_HARNESS_CACHE", str(tmp_path / "cache"))

    def call(ours, theirs, *options, documents=60, rates=None):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)  # the summarisers are new at every call
        server.rates = rates
        judge = rates.__name__ if rates else "m"  # another model's answers are others in the cache
        rows = [{"document": f"Anna left for Rome{i:02} in {i}."} for i in range(documents)]
        (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "mine.yaml").write_text(PRESET)
        (tmp_path / "gates.yaml").write_text(GATES)
        with Writes(ours) as candidate, Writes(theirs) as baseline:
            run = ["run", "--suites", f"faithfulness:{tmp_path / 'mine.yaml'}", "--endpoint", "chat"]
            run += ["--documents", tmp_path / "docs.jsonl", "--out", tmp_path / "out", "--device", "cpu"]
            run += ["--model", candidate.url, "--baseline", baseline.url, "--model-id", "m"]
            run += ["--scorers", "llm-judge,entity-overlap"]
            for option in (f"url={server.url}", f"model={judge}", *options):
                run += ["--scorer-option", f"llm-judge.{option}"]
            code = main(list(map(str, run)))
        if code:
            return code, []
        code = main(["gate", str(tmp_path / "out"), "--gates", str(tmp_path / "gates.yaml")])
        report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
        return code, [(gate["verdict"], " ".join(gate["notes"])) for gate in report["gates"]]

    return call


class Writes(Judge):
    """A summariser: `word(number of the document)` ends its sentence."""

    def __init__(self, word):
        super().__init__(None)
        self.word = word

    def answer(self, body):
        number = int(re.search(r"(\d+)\.$", body["messages"][-1]["content"])[1])
        text = f"Anna left in {number} for {self.word(number)}{number:02}."
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {}}


def mostly(word, other, every):
    """Another word for every so many documents."""
    return lambda number: other if number % every == 0 else word


def test_a_candidate_as_good_as_its_baseline_is_kept_by_a_judge_that_tells_texts_apart(rated):
    good = mostly("Rome", "Oslo", 20)
    code, found = rated(good, good)
    assert (code, found[0][0]) == (0, "KEPT")


def test_unreadable_ratings_are_no_ratings_and_beyond_the_share_nothing_is_decided(rated):
    unsure = mostly("unsure Oslo", "Rome", 2)  # half of the candidate's ratings cannot be read
    code, found = rated(unsure, mostly("Rome", "Oslo", 20))
    assert (code, found[0][0]) == (3, "UNDECIDED")
    assert "30 of 60 comparisons have no judgement, more than the share of 0.02" in found[0][1]
    assert "no judgement" not in found[1][1]  # the other gate's scorer needs no judge


def test_a_few_unreadable_ratings_are_said_and_accepted(rated, tmp_path):
    few = mostly("Rome", "unsure", 30)
    code, found = rated(few, mostly("Rome", "Oslo", 20), "max_unjudged=0.05")
    assert (code, found[0][0]) == (0, "KEPT")
    assert "2 of 60 comparisons have no judgement" in found[0][1]
    assert "llm_judge: 2 of 60 summaries have no readable rating" in (
        tmp_path / "out" / "report" / "report.md"
    ).read_text().replace("&#95;", "_")


@pytest.mark.parametrize("word", ["Rome", "Oslo"], ids=["yes", "no"])
def test_a_judge_that_rates_everything_alike_decides_nothing(rated, word):
    code, found = rated(lambda _: word, lambda _: word)
    assert (code, found[0][0]) == (3, "UNDECIDED")
    assert "its answers say nothing of the texts" in found[0][1]


GOOD = mostly("Rome", "Oslo", 20)


def coin(document, text):
    return zlib.crc32(f"{document}|{text}".encode()) % 2


def by_length(document, text):
    return len(text) % 2


def always(document, text):
    return True


def of_document_only(document, text):
    return "9" in document


def shares_words(document, text):
    return len({*document.rstrip(".").split()} & {*text.rstrip(".").split()}) > 5


@pytest.mark.parametrize("rates", [coin, by_length, always, of_document_only])
def test_a_judge_whose_ratings_do_not_depend_on_the_document_decides_nothing(rated, rates):
    code, found = rated(GOOD, GOOD, rates=rates)
    assert (code, found[0][0]) == (3, "UNDECIDED")
    assert "ratings do not measurably depend on the document: of 24 summaries" in found[0][1]
    assert "do not measurably" not in found[1][1]  # the other gate's scorer is no judge


def test_a_judge_of_shared_words_is_trusted_and_nothing_is_asked_twice(rated, server):
    code, found = rated(GOOD, GOOD, rates=shares_words)
    assert (code, found[0][0]) == (0, "KEPT")
    asked = len(server.bodies)
    assert asked == 60 + 24  # of both runs, whose summaries are the same
    assert max(server.answered.values()) == 1
    assert rated(GOOD, GOOD, rates=shares_words)[0] == 0
    assert len(server.bodies) == asked


def test_a_killed_run_asks_no_control_question_twice(server, tmp_path):
    cases = [Example(f"Anna left for Rome{i}.", (f"Anna left for Rome{i}.",)) for i in range(12)]
    scorer = built(server, tmp_path)

    def scored(name):
        with contextlib.closing(AnswerStore(tmp_path / name)) as store:
            return score_all(scorer, digest(scorer), {"t": cases}, store, 0)

    server.plan = lambda number: ("400",) if number == 20 else ()
    first = scored("scores.sqlite")
    assert (first.failed, first.undecidable) == (1, "")
    server.plan = lambda number: ()
    assert scored("scores.sqlite").failed == 0
    assert scored("others.sqlite").failed == 0
    assert len(server.bodies) == 12 + 12 + 1


def test_a_candidate_that_falls_is_refused_though_its_own_summaries_show_nothing_of_the_judge(rated):
    code, found = rated(lambda number: "Oslo", GOOD)
    assert (code, found[0][0]) == (1, "REGRESSED")


def test_without_controls_the_report_says_so(rated, server, tmp_path):
    assert rated(GOOD, GOOD, "controls=0", rates=coin)[0] == 0
    assert (
        "not checked whether the ratings depend on the document"
        in (tmp_path / "out" / "report" / "report.md").read_text()
    )
    assert len(server.bodies) == 60


@pytest.mark.parametrize(("documents", "reason"), [(1, "fewer than two documents"), (4, "n = 4, p = 0.062")])
def test_too_few_documents_show_nothing(rated, documents, reason):
    code, found = rated(lambda _: "Rome", lambda _: "Rome", documents=documents)
    assert (code, found[0][0]) == (3, "UNDECIDED")
    assert reason in found[0][1]


def test_control_pairs_never_hold_their_own_document_and_are_seeded():
    cases = [Example(f"d{i // 2}", ("", f"s{i}")) for i in range(40)]
    pairs = control_pairs(cases, 24, 3)
    assert len(pairs) == 20 == len({pair.case.document for pair in pairs})
    for number, place, case in pairs:
        assert case.summaries == (cases[number].summaries[place],) != ("",)
        assert case.document != cases[number].document
    assert pairs == control_pairs(cases, 24, 3) != control_pairs(cases, 24, 4)
    assert len(control_pairs(cases, 5, 3)) == 5
    assert control_pairs([Example("d ", ("s",)), Example("d", ("t",))], 24, 0) == []


def test_the_cost_holds_the_controls(server, tmp_path, capsys):
    (tmp_path / "docs.jsonl").write_text("".join(f'{{"document": "Rome {i}."}}\n' for i in range(60)))
    (tmp_path / "mine.yaml").write_text(PRESET)
    run = ["validate", "--suites", f"faithfulness:{tmp_path / 'mine.yaml'}", "--endpoint", "chat"]
    run += ["--documents", tmp_path / "docs.jsonl", "--model", server.url, "--model-id", "m"]
    run += ["--scorers", "llm-judge", "--cache", tmp_path / "cache"]
    run += ["--scorer-option", f"llm-judge.url={server.url}", "--scorer-option", "llm-judge.model=m"]
    assert main(list(map(str, run))) == 0
    assert "llm-judge 84 calls" in capsys.readouterr().out


def test_no_readable_rating_at_all_is_an_error(rated, capsys):
    assert rated(lambda _: "unsure", lambda _: "Rome")[0] == 2
    assert "no summary of summaries_t0 has a rating" in capsys.readouterr().err


def test_meta_evaluates_a_judge(server, tmp_path, capsys):
    rows = [
        {
            "document": f"Anna left for {place} {i}.",
            "summary": f"Anna left for {said}.",
            "label": int(place == said),
        }
        for i in range(4)
        for place, said in (("Rome", "Rome"), ("Rome", "Oslo"))
    ]
    (tmp_path / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["meta", "--scorer", "llm-judge", "--data", str(tmp_path / "judged.jsonl"), "--draws", "100"]
    options = [
        "--scorer-option",
        f"url={server.url}",
        "--scorer-option",
        "model=m",
        "--cache",
        str(tmp_path / "c"),
    ]
    assert main([*args, *options, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["found"]["fixed"]["value"] == 1.0
    assert (tmp_path / "c" / "answers.sqlite").is_file()
    assert main(args) == 2
    assert "missing option" in capsys.readouterr().err
