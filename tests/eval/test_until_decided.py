"""`run --until-decided`: batches in an order that no result has a part in, a look after each, a stop."""

import dataclasses
import json
import random

import pytest

from eval_harness.cli.app import main
from eval_harness.errors import UserError
from eval_harness.files.places import held
from eval_harness.gate import sequential
from eval_harness.gate.compare import FinishedRun
from eval_harness.gate.gates import parse_gates
from eval_harness.gate.sequential import Document
from eval_harness.gate.verdicts import parse_decision
from eval_harness.run import until_decided
from eval_harness.run.folder import read_items, read_result

from .runs import make_run, score_of

GATES = {"version": 1, "margin": 0.1, "gates": {"alpha": None, "beta": None}}


def made(folder, scores, label, clusters=None):
    make_run(folder, scores, label, clusters)
    return read_result(folder), read_items(folder)


def part(name, run, wanted):
    """What a run of these documents alone would have written."""
    result, items = run
    kept = [item for item in items if (item.task, item.doc_id) in wanted]
    tasks = dict.fromkeys(item.task for item in kept)
    scores = [score_of(t, [i.metrics["acc,none"] for i in kept if i.task == t]) for t in tasks]
    return FinishedRun(name, dataclasses.replace(result, scores=tuple(scores)), kept)


def until(ours, theirs, gates, batch=20, seed=0):
    """Look after every batch until the verdict stands; returns the decision, the progress, all looks."""
    file = parse_gates(gates)
    documents = [Document(item.task, item.doc_id, item.cluster) for item in theirs[1]]
    progress, seen, decision = sequential.plan(file, documents, seed), [], None
    while decision is None or not sequential.stands(decision, progress):
        verdicts = [g.verdict for g in decision.gates] if decision else ["UNDECIDED"] * len(progress)
        for one, verdict in zip(progress, verdicts, strict=True):
            if verdict == "UNDECIDED" and not one.exhausted:
                one.advance(batch)
        wanted = {(d.task, d.doc_id) for one in progress for d in one.documents()}
        runs = part("candidate", ours, wanted), part("baseline", theirs, wanted)
        decision = sequential.look(*runs, file, progress)
        seen.append(decision)
    return decision, progress, seen


def drawn(seed, share, number=400):
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(number)]


def test_a_clear_drop_stops_at_once_and_no_change_early(tmp_path):
    good = {"alpha": drawn(1, 0.9), "beta": drawn(2, 0.9)}
    bad = {**good, "alpha": drawn(3, 0.3)}
    decision, progress, _ = until(made(tmp_path / "a", bad, "a"), made(tmp_path / "b", good, "b"), GATES)
    assert decision.verdict == "REGRESSED"
    assert [len(one.documents()) for one in progress] == [20, 20]
    decision, progress, seen = until(made(tmp_path / "a", good, "a"), made(tmp_path / "b", good, "b"), GATES)
    assert decision.verdict == "KEPT"
    assert all(len(one.documents()) < 100 for one in progress)
    assert all(gate.paired.method == "betting, valid at every look" for gate in decision.gates)
    lows = [look.gates[0].paired.low for look in seen]
    assert lows == sorted(lows)


def test_a_gate_that_has_decided_gets_no_more_items(tmp_path):
    theirs = {"alpha": drawn(1, 0.9), "beta": drawn(2, 0.6)}
    ours = {"alpha": theirs["alpha"], "beta": [s if i % 5 else 1 - s for i, s in enumerate(theirs["beta"])]}
    _, progress, seen = until(made(tmp_path / "a", ours, "a"), made(tmp_path / "b", theirs, "b"), GATES)
    assert len(progress[0].documents()) < len(progress[1].documents())
    first = next(k for k, look in enumerate(seen) if look.gates[0].verdict == "KEPT")
    assert {look.gates[0].items for look in seen[first:]} == {seen[first].gates[0].items}


def test_all_items_and_undecided(tmp_path):
    theirs = {"alpha": drawn(1, 0.5, 60), "beta": drawn(2, 0.5, 60)}
    ours = {task: drawn(task, 0.5, 60) for task in theirs}
    decision, progress, _ = until(made(tmp_path / "a", ours, "a"), made(tmp_path / "b", theirs, "b"), GATES)
    assert decision.verdict == "UNDECIDED"
    assert all(one.exhausted for one in progress)
    assert all(gate.needed is None for gate in decision.gates)


def test_the_order_knows_no_result_and_keeps_clusters_whole():
    documents = [Document("t", i, f"c{i // 3}") for i in range(60)]
    file = parse_gates({"version": 1, "gates": {"t": None, "again": {"tasks": ["t"]}}})
    first, again = sequential.plan(file, documents, 0)
    assert first.clusters == again.clusters
    assert sorted(d for cluster in first.clusters for d in cluster) == documents
    assert all(len({d.cluster for d in cluster}) == 1 and len(cluster) == 3 for cluster in first.clusters)
    assert first.clusters != sequential.plan(file, documents, 1)[0].clusters
    assert [c[0].cluster for c in first.clusters] != [f"c{i}" for i in range(20)]
    first.advance(20)
    assert len(first.documents()) == 21


def test_the_order_of_the_data_changes_nothing():
    documents = [Document("t", i, f"c{i}") for i in range(40)]
    file = parse_gates({"version": 1, "gates": {"t": None}})
    shuffled = random.Random(3).sample(documents, 40)
    orders = [sequential.plan(file, given, 0)[0].clusters for given in (documents, shuffled)]
    assert orders[0] == orders[1]


def test_the_interval_is_that_of_the_statistics(tmp_path):
    import numpy as np

    from eval_harness.stats.clustered import Clusters
    from eval_harness.stats.sequential import looks

    ours, theirs = {"alpha": drawn(5, 0.7)}, {"alpha": drawn(6, 0.7)}
    gates = {"version": 1, "margin": 0.1, "gates": {"alpha": None}}
    decision, [one], _ = until(made(tmp_path / "a", ours, "a"), made(tmp_path / "b", theirs, "b"), gates)
    values = [ours["alpha"][d.doc_id] - theirs["alpha"][d.doc_id] for d in one.documents()]
    groups = Clusters(np.arange(len(values)), np.ones(len(values), dtype=np.int64))
    last = looks(np.array(values), groups, one.seen, 1, 0.05)[-1]
    found = decision.gates[0].paired
    assert (found.low, found.high, found.p) == (last.low, last.high, last.p)


def test_several_values_an_item_are_refused(tmp_path):
    lists = {"alpha": [[1, 0]] * 40, "beta": [[1]] * 40}
    with pytest.raises(UserError, match="several values an item"):
        until(made(tmp_path / "a", lists, "a"), made(tmp_path / "b", lists, "b"), GATES)


# -- with models


@pytest.fixture
def undertaking(trained, choice_tasks, tmp_path):
    """undertaking(model): run --until-decided against `trained`; returns exit code and decision."""
    gates = tmp_path / "gates.yaml"
    gates.write_text(
        "version: 1\nmargin: 0.1\ngates: {grammar: {tasks: [swag]}, topic: {tasks: [storycloze_2016]}}\n"
    )

    def call(model, *words):
        fixed = ["--suites", f"reasoning:{choice_tasks / 'tasks.yaml'}", "--data", choice_tasks / "data.yaml"]
        fixed += ["--device", "cpu", "--limit", 150, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
        fixed += ["--until-decided", gates, "--look-every", 30, "--baseline", trained, "--model", model]
        code = main(["run", *map(str, fixed), *map(str, words)])
        report = tmp_path / "out" / "report" / "report.json"
        return code, parse_decision(json.loads(report.read_text())) if report.is_file() else None

    return call


@pytest.mark.slow
def test_only_what_is_needed_is_measured_and_a_killed_one_goes_on(
    undertaking, trained, tmp_path, monkeypatch
):
    looked = sequential.look
    monkeypatch.setattr(
        until_decided.sequential, "look", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        undertaking(trained)
    assert not (tmp_path / "out" / "result.json").exists()
    monkeypatch.setattr(until_decided.sequential, "look", looked)
    code, decision = undertaking(trained)
    assert (code, decision.verdict) == (0, "KEPT")
    items = read_items(tmp_path / "out")
    assert 60 <= len(items) < 300
    assert len(items) == sum(gate.items for gate in decision.gates)
    # the same once more: every answer from the store, the same decision
    again, same = undertaking(trained)
    assert (again, same.gates) == (0, decision.gates)
    assert read_result(tmp_path / "out").counts["computed"] == 0
    # a test for a fixed number of items decides nothing by such a run
    words = ["gate", tmp_path / "out", "--gates", tmp_path / "gates.yaml", "--report", tmp_path / "other"]
    assert main([str(word) for word in words]) == 3


@pytest.mark.slow
def test_another_model_regresses_with_few_items(undertaking, model_a, trained, tmp_path):
    import shutil

    # the toy tokenizer with untrained weights
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(trained, tmp_path / "untrained")
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(trained)).save_pretrained(
        tmp_path / "untrained"
    )
    code, decision = undertaking(tmp_path / "untrained")
    assert (code, decision.verdict) == (1, "REGRESSED")
    assert len(read_items(tmp_path / "out")) < 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--look-every", "0"], "--look-every"),
        (["--suites", "faithfulness"], "expected: suite reasoning|needs|--documents"),
        (["--until-decided", "nothing"], "no such gates file"),
        (["--until-decided", "quick"], "no such task"),
    ],
)
def test_refusals(words, message, undertaking, trained, tmp_path, capsys):
    assert undertaking(trained, *words)[0] == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("eval-harness:")]
    assert len(lines) == 1
    assert any(part in lines[0] for part in message.split("|")), lines
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_run_holds(undertaking, trained, tmp_path, capsys):
    with held(tmp_path / "out"):
        assert undertaking(trained)[0] == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eval-harness:")]
    assert len(lines) == 1
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.slow
def test_a_refusal_and_a_full_disk_cost_nothing_that_was_there(
    undertaking, trained, tmp_path, monkeypatch, capsys
):
    import errno
    import os

    assert undertaking(trained)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    # another undertaking: the folder holds another run
    assert undertaking(trained, "--look-every", 40)[0] == 2
    assert "holds another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    # a full disk while the reports are written: none is left, the runs are whole
    sync = os.fsync

    def full(handle):
        if list((tmp_path / "out" / "report").glob(".report.md.*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert undertaking(trained) == (2, None)
    assert "no disk space" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "report").iterdir())
    assert read_items(tmp_path / "out")
    assert read_items(tmp_path / "out" / "baseline")
    monkeypatch.setattr(os, "fsync", sync)
    assert undertaking(trained)[0] == 0


def test_a_damaged_or_full_cache_is_one_line(undertaking, trained, tmp_path, monkeypatch, capsys):
    import sqlite3

    from eval_harness.models.answer_store import AnswerStore

    def full(store, answers):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(AnswerStore, "write", full)
        assert undertaking(trained) == (2, None)
    assert "disk is full" in capsys.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()
    for path in (tmp_path / "cache").glob("answers.sqlite*"):
        path.unlink()
    (tmp_path / "cache" / "answers.sqlite").write_text("garbage" * 1000)
    assert undertaking(trained) == (2, None)
    assert "cache of answers" in capsys.readouterr().err


def test_one_model_is_not_enough(trained, choice_tasks, tmp_path, capsys):
    words = [
        "run",
        "--model",
        trained,
        "--until-decided",
        "quick",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    words += ["--suites", f"reasoning:{choice_tasks / 'tasks.yaml'}", "--data", choice_tasks / "data.yaml"]
    assert main([str(word) for word in words]) == 2
    assert "expected: --model and --baseline" in capsys.readouterr().err


@pytest.mark.slow
def test_few_shot_prompts_are_those_of_the_whole_run(cli, model_a, model_b, tmp_path):
    gates = tmp_path / "gates.yaml"
    gates.write_text(
        "version: 1\nmargin: 0.5\ngates: {gsm8k: {tasks: [gsm8k], metric: 'exact_match,flexible-extract'}, "
        "arc: {tasks: [arc_challenge]}}\n"
    )
    words = ["--baseline", model_b, "--model", model_a, "--generation", "max_gen_toks=4"]
    words += ["--suites", "reasoning:quick", "--tasks", "gsm8k,arc_challenge"]
    stopped = ["--until-decided", gates, "--look-every", 3]
    assert cli(*words, *stopped) in (0, 1, 3)
    parts = {(i.task, i.doc_id): i for i in read_items(tmp_path / "out")}
    assert cli(*words, out=tmp_path / "whole") == 0
    whole = {(i.task, i.doc_id): i for i in read_items(tmp_path / "whole")}
    assert {key: whole[key] for key in parts} == parts
    counts = read_result(tmp_path / "whole").counts
    asked = sum(4 if task == "arc_challenge" else 1 for task, _ in parts)
    assert (counts["reused"], counts["computed"]) == (asked, counts["requests"] - asked)
