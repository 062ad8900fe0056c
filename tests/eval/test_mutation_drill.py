"""The mutation drill: a healthy pair of runs is KEPT, and broken in any way of the refusal table it is not.

Every way is a row of the table in docs/gate.md, by its name; every row is a way.
"""

import ast
import dataclasses
import json
import re
import zlib

import pytest

from . import drill, test_llm_judge_scorer
from .conftest import REPO
from .drill import both, engine, first, items, remade, reply, result, whole
from .runs import METRIC, values
from .test_contentless import DOCUMENTS
from .test_finite import overflowing
from .test_fit import edit, renamed, without_first, zero_b
from .test_gate_models import noisy_copy
from .test_llm_judge_scorer import mostly, rated, server  # noqa: F401 - fixtures
from .test_win_rate import files, run  # noqa: F401 - fixtures
from .tiny import make_adapter

TWO = [str(number % 2) for number in range(400)]  # clusters
OUTCOMES = {"REGRESSED": 1, "error": 2, "UNDECIDED": 3}


def adapter_of(change):
    def changed(copy):
        folder = make_adapter(copy.parent / f"{copy.name}-lora", str(copy))
        edit(folder / "adapter_model.safetensors", change)
        return folder

    return changed


def weights(change):
    return lambda copy: edit(copy / "model.safetensors", change)


def of_two_models(copy):
    noisy = noisy_copy(copy, copy.parent / f"{copy.name}-noisy", 3.0)
    (noisy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))


def as_other(copy):
    other = noisy_copy(copy, copy.parent / f"{copy.name}-noisy", 1.0)
    (other / "model.safetensors").rename(copy / "model.safetensors")


def hot(copy):
    return overflowing(copy, copy.parent / f"{copy.name}-hot")


def of_another(document):
    return drill.two_sentences(DOCUMENTS[DOCUMENTS.index(document) - 1])


def of_version_2(scores):
    return tuple(dataclasses.replace(score, version="2") for score in scores)


def cut(copy):
    raw = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(raw[:-10])


def without(name):
    return lambda folder: (folder / name).unlink()


def coin(first, second):
    return "AB"[zlib.crc32(f"{first}|{second}".encode()) % 2]


def constant(share):
    """A judge's metric that is one number for everything, in both runs."""

    def change(folder):
        remade([share] * 400, [share] * 400)(folder)
        both(result(scores=lambda old: tuple(dataclasses.replace(s, judged=True) for s in old)))(folder)

    return change


HALF_UNSURE = (mostly("unsure Oslo", "Rome", 2), mostly("Rome", "Oslo", 20))
# Way -> the stage that it happens on, and the change.
WAYS = {
    "no weights": ("models", without("model.safetensors")),
    "partly loaded weights": ("models", weights(without_first)),
    "cut-off weights": ("models", cut),
    "an adapter that does not land": ("models", adapter_of(renamed)),
    "an adapter that changes nothing": ("models", adapter_of(zero_b)),
    "two models in one folder": ("models", of_two_models),
    "another model under the same name": ("models", as_other),
    "numbers that are not finite": ("models", hot),
    "no tokenizer": ("models", without("tokenizer.json")),
    "no answer": ("answers", reply(None)),
    "an answer cut off before it began": ("answers", reply("", "length")),
    "unfinished thinking": ("answers", reply("<think>The text says", "length")),
    "empty texts": ("answers", reply("")),
    "texts that say nothing": ("answers", reply("I do not know.")),
    "texts that are far too short": ("answers", whole(lambda document: document.split()[0])),
    "texts of another document": ("answers", whole(of_another)),
    "a judge that always says the same": ("duel", {"text": "A"}),
    "a judge that throws a coin": ("duel", {"say": coin}),
    "a judge that calls everything a tie": ("duel", {"text": "C"}),
    "a judge that cannot be read": ("duel", {"text": "Both have their merits."}),
    "a judge that thinks and never ends": ("duel", {"text": "<think>A is", "finish": "length"}),
    "a judge that fails for too many": ("duel", {"plan": lambda number: () if number % 4 else ("garbage",)}),
    "ratings that cannot be read": ("rated", HALF_UNSURE),
    "ratings at random": ("rated", test_llm_judge_scorer.coin),
    "ratings that are blind to the document": ("rated", test_llm_judge_scorer.by_length),
    "ratings that are all alike": ("rated", (lambda _: "Rome", lambda _: "Rome")),
    "judgements missing": ("records", drill.unjudged),
    "a score that is one number for everything": ("records", constant(0.7)),
    "a null score": ("records", first(metrics={METRIC: None})),
    "a NaN score": ("records", first(metrics={METRIC: float("nan")})),
    "a score out of range": ("records", first(metrics={METRIC: 7})),
    "another metric": ("records", first(metrics={"f1,none": 1})),
    "a request that failed": ("records", result(counts={"failed": 1})),
    "an item without an answer": ("records", drill.NOT_CAME),
    "a missing item": ("records", items(lambda made: made[:-1])),
    "a missing task": ("records", items(lambda made: [item for item in made if item.task == "alpha"])),
    "a doubled item": ("records", items(lambda made: [*made, made[0]])),
    "a changed item": ("records", first(doc_hash="other")),
    "another prompt": ("records", first(prompt="Other?")),
    "another prompt's hash": ("records", first(prompt_hash="other")),
    "another right answer": ("records", first(target="1")),
    "items of another run": ("records", first(metrics={METRIC: 0})),
    "an unfinished run": ("records", without("result.json")),
    "other settings": ("records", result(settings=lambda old: {**old, "chat_template": True})),
    "another option that shapes a prompt": ("records", engine(add_bos_token=True)),
    "another preset": ("records", result(preset="other")),
    "another version of the preset": ("records", result(preset_version=2)),
    "another lm-eval": ("records", result(versions={"lm_eval": "0.4.12"})),
    "another version of a task": ("records", result(scores=of_version_2)),
    "a run that says nothing follows from it": ("records", result(undecidable="the judge slept")),
    "a metric that is better when smaller": ("records", drill.smaller_is_better),
    "metrics of opposite direction": ("records", drill.one_direction_only),
    "no variance in few items": ("records", remade([1] * 20, [1] * 20)),
    "no variance in few clusters": ("records", remade([0.5, 0.6] * 200, [0.5, 0.6] * 200, TWO)),
    "one cluster": ("records", remade([1, 0] * 200, [1, 0] * 200, ["story"] * 400)),
    "nothing to lose": ("records", remade([0] * 390 + [1] * 10, [0] * 390 + [1] * 10)),
    "few items": ("records", remade(*values(40, 1, 1, 8))),
    "a drop": ("records", remade(*values(230, 50, 4, 116))),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(trained, choice_tasks, tmp_path_factory):
    return drill.Models(tmp_path_factory.mktemp("models"), trained, choice_tasks)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return drill.Answers(tmp_path_factory.mktemp("answers"), DOCUMENTS)


@pytest.fixture
def records(tmp_path):
    return drill.Records(tmp_path)


@pytest.fixture
def duel(tmp_path, files, run):  # noqa: F811
    return drill.Duel(tmp_path, files, run)


def measured(stage, request, change):
    """Exit code of the healthy pair, or of the one that a change broke."""
    asked = request.getfixturevalue(stage)
    if stage == "rated":
        good = mostly("Rome", "Oslo", 20)
        if callable(change):
            return asked(good, good, rates=change)[0]
        return asked(*(change or (good, good)))[0]
    return asked(change) if change is not None else asked()


SLOW = ("models", "answers", "duel", "rated")


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=[pytest.mark.slow] * (WAYS[w][0] in SLOW)) for w in WAYS]
)
def test_a_healthy_pair_is_kept_and_a_broken_one_never(way, request):
    stage, change = WAYS[way]
    assert measured(stage, request, None) == 0
    does = next(does for name, does, _ in table() if name == way)
    assert measured(stage, request, change) == OUTCOMES[does.partition(":")[0]]


def table():
    """Rows of the refusal table: way, what happens, tests."""
    text = (REPO / "docs" / "gate.md").read_text().partition("## What is never KEPT")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line] for line in lines]
    return [row for row in rows if row[0] not in ("way", "---")]


def test_every_way_of_the_table_is_drilled_and_every_drill_is_in_the_table():
    assert [way for way, _, _ in table()] == list(WAYS)


def test_every_test_of_the_table_is_there():
    for way, _, named in table():
        tests = re.findall(r"`(test_\w+)::(test_\w+)`", named)
        assert tests, way
        for file, name in tests:
            tree = ast.parse((REPO / "tests" / "eval" / f"{file}.py").read_text())
            defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in defined, (file, name)
