"""The LLM judge as a scorer, through the judge layer and a local server."""

import json
import re

import pytest

import eval_harness.faithfulness.scorers  # noqa: F401 - registers them
from eval_harness.cli.app import main
from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device, Example
from eval_harness.faithfulness.registry import ScorerSpec, build_scorer, digest

from .judge_server import Judge

ASKED = re.compile(
    r"\[document (\w+)\]\n(.*?)\n\[end of document \1\].*\[text \1\]\n(.*?)\n\[end of text \1\]", re.DOTALL
)


class Checks(Judge):
    """Says yes when the document holds the text's last word."""

    def answer(self, body):
        _, document, text = ASKED.search(body["messages"][-1]["content"]).groups()
        word = "yes" if text.rstrip(".").split()[-1] in document else "no"
        if "unsure" in text:
            word = "who knows"
        choice = {"index": 0, "message": {"role": "assistant", "content": word}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}


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


def test_summaries_are_rated_and_kept(server, tmp_path, capsys):
    scorer = built(server, tmp_path)
    scorer.check()
    assert "3 calls" in scorer.cost([CASE])
    assert scorer.score([CASE])[0].values["llm_judge"] == (1.0, 0.0, 0.0, 0.5)
    assert "1 of 3 answers cannot be read" in capsys.readouterr().err
    assert len(server.bodies) == 3  # an empty summary is not asked about
    assert scorer.score([CASE, CASE])[1].values["llm_judge"] == (1.0, 0.0, 0.0, 0.5)
    assert len(server.bodies) == 3  # every answer is on disk
    assert server.url not in json.dumps(scorer.models())


def test_by_sentence_the_weakest_counts_and_is_shown(server, tmp_path):
    summary = "Anna left for Rome. Anna left for Oslo."
    graded = built(server, tmp_path, by_sentence=True).score([Example(CASE.document, (summary,))])[0]
    assert graded.values["llm_judge"] == (0.0,)
    assert graded.evidence[0][0] == ("Anna left for Rome.", "Anna left for Oslo.", 0.0)
    assert digest(built(server, tmp_path, by_sentence=True)) != digest(built(server, tmp_path))


def test_a_judge_that_fails_is_an_error_and_what_it_said_is_kept(server, tmp_path):
    server.plan = lambda number: ("garbage",) * 50 if number == 1 else ()
    judge = tmp_path / "judge.yaml"
    judge.write_text(f"judge: http\nurl: {server.url}\nmodel: m\nretries: 0\nbackoff: 0.0\nconcurrency: 1\n")
    scorer = built(server, tmp_path, judge=str(judge))
    with pytest.raises(UserError, match="finished answers are kept"):
        scorer.score([CASE])
    server.plan = lambda number: ()
    asked = sum(server.answered.values())
    scorer.score([CASE])
    assert sum(server.answered.values()) == asked + 1


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
