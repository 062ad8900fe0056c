"""compare, gate and report on made runs: verdicts, exit codes, and what is refused."""

import dataclasses
import json
import subprocess
import sys

import pytest

from eval_harness.cli.app import main
from eval_harness.gate.decide import verdict_of
from eval_harness.run.folder import read_items, read_result, write_run
from eval_harness.stats.paired import paired

from .conftest import REPO
from .runs import METRIC, make_items, make_run, values

GATES = "version: 1\nmargin: 0.05\ndiscordance: 0.1\ngates: {alpha: {}, beta: {}}\n"
KEPT = values(right=280, lost=6, gained=6, wrong=108)
REGRESSED = values(right=230, lost=50, gained=4, wrong=116)
UNDECIDED = values(right=240, lost=30, gained=18, wrong=112)


@pytest.fixture
def place(tmp_path):
    """place(alpha=..., beta=...): write both runs and a gates file, return the arguments of `gate`."""

    def write(gates=GATES, alpha=KEPT, beta=KEPT, **changes):
        ours, theirs = {"alpha": alpha[0], "beta": beta[0]}, {"alpha": alpha[1], "beta": beta[1]}
        make_run(tmp_path / "a", ours, "policy", **changes)
        make_run(tmp_path / "b", theirs, "start")
        (tmp_path / "gates.yaml").write_text(gates)
        return [
            "gate",
            str(tmp_path / "a"),
            "--baseline",
            str(tmp_path / "b"),
            "--gates",
            str(tmp_path / "gates.yaml"),
        ]

    return write


def decision(tmp_path):
    return json.loads((tmp_path / "a" / "report" / "report.json").read_text())


def verdicts(tmp_path):
    return {gate["name"]: gate["verdict"] for gate in decision(tmp_path)["gates"]}


@pytest.mark.parametrize(
    ("alpha", "beta", "code", "expected"),
    [
        (KEPT, KEPT, 0, ["KEPT", "KEPT"]),
        (REGRESSED, KEPT, 1, ["REGRESSED", "KEPT"]),
        (UNDECIDED, KEPT, 3, ["UNDECIDED", "KEPT"]),
        (UNDECIDED, REGRESSED, 1, ["UNDECIDED", "REGRESSED"]),
    ],
)
def test_verdicts_and_exit_codes(place, tmp_path, capsys, alpha, beta, code, expected):
    assert main(place(alpha=alpha, beta=beta)) == code
    assert list(verdicts(tmp_path).values()) == expected
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(decision(tmp_path)["verdict"])
    assert decision(tmp_path)["exit_code"] == code


@pytest.mark.parametrize(("told", "code"), [("exit", 3), ("pass", 0), ("fail", 1)])
def test_undecided_is_mapped(place, tmp_path, told, code):
    assert main([*place(alpha=UNDECIDED), "--undecided", told]) == code
    assert decision(tmp_path)["verdict"] == "UNDECIDED"
    assert main([*place(alpha=REGRESSED), "--undecided", told]) == 1


def test_what_does_not_block_does_not_decide(place, tmp_path):
    gates = GATES.replace("alpha: {}", "alpha: {blocking: false}")
    assert main(place(gates, alpha=REGRESSED)) == 0
    assert verdicts(tmp_path)["alpha"] == "REGRESSED"
    assert main(place(gates, alpha=UNDECIDED)) == 0
    assert main(place(gates, beta=UNDECIDED)) == 3


def test_verdict_of_covers_every_case():
    found = paired(*values(100, 20, 5, 100), range(225), 0.05)
    low = dataclasses.replace(found, low=-0.1)
    assert verdict_of(low, 0.04, 0.05, 0.05) == "REGRESSED"
    assert verdict_of(low, 0.05, 0.05, 0.05) == "UNDECIDED"
    assert verdict_of(low, 0.04, 0.11, 0.05) == "KEPT"
    # exactly at the margin is not excluded
    assert verdict_of(low, 0.06, 0.1, 0.05) == "UNDECIDED"


def test_a_significant_drop_inside_the_margin_is_kept_and_noted(place, tmp_path):
    small = values(right=2000, lost=40, gained=10, wrong=450)
    assert main(place(alpha=small)) == 0
    gate = decision(tmp_path)["gates"][0]
    assert gate["verdict"] == "KEPT"
    assert gate["p_holm"] < 0.05
    assert "inside the margin" in gate["notes"][0]


def test_holm_is_over_all_gates(place, tmp_path):
    # 12 lost, 3 gained of 100: p = 0.0176, alone REGRESSED, among four gates p = 0.07
    lost = values(right=60, lost=12, gained=3, wrong=25)
    one = "version: 1\ngates: {alpha: {}}\n"
    assert main(place(one, alpha=lost)) == 1
    four = "version: 1\ngates: {alpha: {}, " + ", ".join(f"b{i}: {{tasks: [beta]}}" for i in range(3)) + "}\n"
    assert main(place(four, alpha=lost)) == 3
    gate = decision(tmp_path)["gates"][0]
    assert gate["paired"]["p"] == pytest.approx(0.017578125)
    assert gate["p_holm"] == pytest.approx(4 * 0.017578125)


GRADED = ([0.4, 0.6, 0.5] * 6, [0.55, 0.45, 0.55] * 6)


@pytest.mark.parametrize(
    "case", [GRADED, UNDECIDED, values(60, 4, 4, 20), values(20), values(100, 12, 5, 40)]
)
def test_the_number_of_items_that_would_decide_does(place, tmp_path, case):
    assert main(place("version: 1\ngates: {alpha: {}}\n", alpha=case)) == 3
    gate = decision(tmp_path)["gates"][0]
    n, wanted = gate["items"], gate["needed"]
    assert wanted > n
    if gate["paired"]["method"] == "nonparametric tilting":
        bigger = tuple((side * wanted)[:wanted] for side in case)
        assert main(place("version: 1\ngates: {alpha: {}}\n", alpha=bigger)) in (0, 1)
        return
    counts = [round(gate["paired"][k] * wanted / n) for k in ("lost", "gained")]
    same = wanted - sum(counts)
    bigger = values(same, counts[0], counts[1])
    assert main(place("version: 1\ngates: {alpha: {}}\n", alpha=bigger)) in (0, 1)


def test_pooled_tasks_share_clusters(tmp_path, place):
    gates = "version: 1\ngates: {both: {tasks: ['*']}}\n"
    place(gates)
    questions = [f"q{i}" for i in range(400)]
    for name, side in (("a", 0), ("b", 1)):
        tasks = {"alpha": UNDECIDED[side], "beta": UNDECIDED[side]}
        make_run(tmp_path / name, tasks, name, clusters=questions)
    args = ["gate", tmp_path / "a", "--baseline", tmp_path / "b", "--gates", tmp_path / "gates.yaml"]
    assert main([str(a) for a in args]) == 3
    twice = decision(tmp_path)["gates"][0]
    # the same questions in two tasks bring nothing new
    assert (twice["items"], twice["paired"]["clusters"]) == (800, 400)
    single = paired(*UNDECIDED, range(400), 0.05)
    assert twice["paired"]["p"] == pytest.approx(single.p, abs=1e-9)
    assert twice["paired"]["low"] == pytest.approx(single.low, abs=0.002)


def test_lists_per_item_are_observations_clustered_by_item(tmp_path):
    ours, theirs = [[1, 0], [1], [0, 1, 1]] * 40, [[1, 1], [1], [1, 1, 1]] * 40
    make_run(tmp_path / "a", {"ifeval": ours}, "a")
    make_run(tmp_path / "b", {"ifeval": theirs}, "b")
    (tmp_path / "g.yaml").write_text("version: 1\ngates: {ifeval: {}}\n")
    assert (
        main(
            [
                "gate",
                str(tmp_path / "a"),
                "--baseline",
                str(tmp_path / "b"),
                "--gates",
                str(tmp_path / "g.yaml"),
            ]
        )
        == 1
    )
    gate = decision(tmp_path)["gates"][0]
    assert (gate["items"], gate["paired"]["n"], gate["paired"]["clusters"]) == (120, 240, 120)
    assert gate["paired"]["lost"] == 80


@pytest.mark.parametrize(("alpha", "code"), [(REGRESSED, 0), (REGRESSED[::-1], 1)])
def test_lower_is_better_is_turned_round(tmp_path, place, alpha, code):
    args = place(alpha=alpha)
    for folder in (tmp_path / "a", tmp_path / "b"):
        made = read_result(folder)
        scores = tuple(dataclasses.replace(s, higher_is_better=False) for s in made.scores)
        write_run(folder, dataclasses.replace(made, scores=scores), read_items(folder))
    assert main(args) == code
    kinds = [flip["change"] for flip in decision(tmp_path)["flips"] if flip["gate"] == "alpha"]
    assert kinds.count("lost") == (25 if code else 4)


# -- what is never a verdict


def change_items(folder, change):
    items = change(read_items(folder))
    write_run(folder, read_result(folder), items)


def edit(item, **fields):
    return dataclasses.replace(item, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items[:-1], "items are missing in the candidate"),
        (lambda items: [*items, items[0]], "there twice"),
        (lambda items: [edit(items[0], prompt_hash="x"), *items[1:]], "another prompt_hash"),
        (lambda items: [edit(items[0], prompt="Other?"), *items[1:]], "another prompt"),
        (lambda items: [edit(items[0], doc_hash="x"), *items[1:]], "another doc_hash"),
        (lambda items: [edit(items[0], target="1"), *items[1:]], "another target"),
        (lambda items: [edit(items[0], doc_id=4711), *items[1:]], "documents in one run only"),
        (lambda items: [edit(items[0], metrics={}), *items[1:]], "acc,none of alpha 0"),
        (lambda items: [edit(items[0], metrics={METRIC: "NaN"}), *items[1:]], "a number in [0, 1]"),
        (lambda items: [edit(items[0], metrics={METRIC: 7}), *items[1:]], "a number in [0, 1]"),
        (lambda items: [edit(items[0], metrics={METRIC: [1, 1]}), *items[1:]], "as many in both runs"),
        (lambda items: [edit(items[0], metrics={METRIC: 0}), *items[1:]], "do not belong together"),
        (
            lambda items: [edit(items[0], outputs=["LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER"]), *items[1:]],
            "a failed item",
        ),
    ],
)
def test_missing_mismatched_and_failed_items_are_exit_2(place, tmp_path, capsys, change, message):
    args = place()
    assert main(args) == 0
    change_items(tmp_path / "a", change)
    assert main(args) == 2
    assert message in one_line(capsys)
    # and the earlier verdict is gone
    assert not list((tmp_path / "a" / "report").iterdir())


def one_line(capsys):
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("eval-harness: ")
    assert "Traceback" not in captured.err
    return lines[0]


def test_a_task_missing_in_one_run(place, tmp_path, capsys):
    for missing, other in (("candidate", "a"), ("baseline", "b")):
        args = place()
        made = read_result(tmp_path / other)
        kept = tuple(s for s in made.scores if s.task != "beta")
        items = [i for i in read_items(tmp_path / other) if i.task != "beta"]
        write_run(tmp_path / other, dataclasses.replace(made, scores=kept), items)
        assert main(args) == 2
        assert f"a task is missing in the {missing}" in one_line(capsys)


@pytest.mark.parametrize(("ours", "theirs", "lacking"), [(400, 399, "baseline"), (399, 400, "candidate")])
def test_runs_of_other_lengths(place, capsys, ours, theirs, lacking):
    assert main(place(alpha=([1] * ours, [1] * theirs))) == 2
    assert f"items are missing in the {lacking}; got: alpha: 1 documents in one run only" in one_line(capsys)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "other"}, "differ in preset"),
        ({"preset_version": 2}, "differ in preset_version"),
        ({"versions": {"lm_eval": "0.5.0"}}, "differ in lm-eval version"),
        ({"settings": {"generation": {"max_gen_toks": 9}, "chat_template": False}}, "differ in generation"),
        ({"settings": {"generation": {}, "chat_template": False, "limit_context": 64}}, "limit_context"),
        ({"counts": {"failed": 3}}, "failed items in the candidate"),
    ],
)
def test_runs_that_were_made_differently(place, capsys, fields, message):
    assert main(place(**fields)) == 2
    assert message in one_line(capsys)


def test_engine_settings_that_differ_are_noted(place, tmp_path):
    settings = {"backend": "vllm", "dtype": "bfloat16", "generation": {}, "chat_template": False}
    assert main(place(settings=settings, versions={"lm_eval": "0.4.13", "torch": "9"})) == 0
    notes = " | ".join(decision(tmp_path)["notes"])
    assert "backend differs: vllm and hf" in notes
    assert "torch differs: 9 and None" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not valid YAML"),
        ("version: 2\ngates: {alpha: {}}", "version: 1"),
        ("version: 1\ngates: {}", "none blocking"),
        ("version: 1\ngates: {alpha: {blocking: false}}", "none blocking"),
        ("version: 1\ngates: {alpha: {}, alpha: {margin: 0.5}}", "twice"),
        ("version: 1\nmargn: 0.1\ngates: {alpha: {}}", "did you mean margin"),
        ("version: 1\ngates: {alpha: {margn: 0.1}}", "did you mean margin"),
        ("version: 1\ngates: {alpha: {margin: 3}}", "a number between 0 and 1"),
        ("version: 1\ngates: {alpha: {margin: 0}}", "a number between 0 and 1"),
        ("version: 1\ngates: {alpha: {margin: .nan}}", "a number between 0 and 1"),
        ("version: 1\nalpha: 0.5\ngates: {alpha: {}}", "between 0 and 0.5"),
        ("version: 1\ngates: {alpha: {items: 0}}", "a positive integer"),
        ("version: 1\ngates: {alpha: {blocking: 1}}", "true or false"),
        ("version: 1\ngates: {alpha: {tasks: beta}}", "a list of task names"),
        ("version: 1\ngates: {alpha: {metric: acc}}", "name,filter"),
        ('version: 1\ngates: {alpha: {metric: "f1,none"}}', "no such metric"),
        ("version: 1\ngates: {alpah: {}}", "did you mean alpha"),
        ("version: 1\ngates: {alpha: [1]}", "a mapping of keys"),
        ("- 1", "version: 1"),
    ],
)
def test_bad_gates_files(place, capsys, text, message):
    assert main(place(text)) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("items.jsonl", "unreadable per-item records"),
        ("result.json", "unreadable result"),
        (None, "no finished run"),
    ],
)
def test_broken_run_folders(place, tmp_path, capsys, broken, message):
    args = place()
    if broken:
        (tmp_path / "a" / broken).write_text("{\n")
    else:
        (tmp_path / "a" / "result.json").unlink()
    assert main(args) == 2
    assert message in one_line(capsys)


def test_missing_files_and_odd_arguments(place, tmp_path, capsys):
    args = place()
    assert main([*args[:-1], str(tmp_path / "none.yaml")]) == 2
    assert "no such gates file" in one_line(capsys)
    assert main([*args[:-1], "quik"]) == 2
    assert "did you mean quick" in one_line(capsys)
    assert main(["gate", args[1], "--gates", args[-1]]) == 2
    assert "no finished run" in one_line(capsys)
    assert main(["compare", args[1], args[3], "--gates", args[-1], "--alpha", "0.1"]) == 2
    assert "one of the two ways" in one_line(capsys)
    assert main(["compare", args[1], args[3], "--margin", "5"]) == 2
    assert "--margin" in one_line(capsys)
    assert main(["report", args[1]]) == 2
    assert "no finished run" in one_line(capsys)
    (tmp_path / "file").write_text("")
    assert main([*args, "--report", str(tmp_path / "file")]) == 2
    assert "is no folder" in one_line(capsys)


def test_a_mistake_in_the_gates_file_costs_no_earlier_report(place, tmp_path, capsys):
    args = place()
    main(args)
    report = tmp_path / "a" / "report" / "report.json"
    kept = report.read_text()
    for text in ("gates: [", "nothing: here", ""):
        (tmp_path / "gates.yaml").write_text(text)
        assert main(args) == 2
        assert report.read_text() == kept
    assert main([*args[:-1], str(tmp_path / "none.yaml")]) == 2
    assert report.read_text() == kept


# -- compare and validate


def test_compare_prints_differences_and_does_not_judge_by_exit_code(place, capsys):
    args = place(alpha=REGRESSED)
    assert main(["compare", args[1], args[3]]) == 0
    out = capsys.readouterr().out
    assert "-0.115" in out
    assert "50 lost, 4 gained" in out
    assert main(["compare", args[1], args[3], "--json", "--margin", "0.3", "--alpha", "0.01"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["alpha"] == 0.01
    assert {gate["verdict"] for gate in found["gates"]} == {"KEPT"}


def test_validate_computes_power_and_refuses_weak_gates(place, tmp_path, capsys):
    args = place(GATES.replace("alpha: {}", "alpha: {items: 400}").replace("beta: {}", "beta: {items: 60}"))
    assert main(["validate", "--gates", args[-1]]) == 2
    line = one_line(capsys)
    assert "gate beta: too weak" in line
    assert "power 0." in line
    assert "items, or margin" in line
    assert main(["validate", "--gates", args[-1], "--allow-low-power"]) == 0
    assert "alpha: power 0.9" in capsys.readouterr().out
    # counts of a run instead of the file's
    assert main(["validate", "--gates", args[-1], "--run", args[1]]) == 0
    assert "beta: power 0.9" in capsys.readouterr().out
    for text in (
        "version: 1\ngates: {alpha: {items: 9}}",
        "version: 1\ndiscordance: 0.1\ngates: {alpha: {}}",
    ):
        assert main(["validate", "--gates", place(text)[-1]]) == 2
        assert "power unknown" in one_line(capsys)


def test_every_shipped_gates_file_is_strong_enough_and_fits_its_preset(capsys):
    from eval_harness.files.configs import config_names
    from eval_harness.gate.gates import load_gates
    from eval_harness.run.runner import load_suite_preset

    assert config_names("gates") == ["leaderboard", "quick", "summaries", "win_rate", "win_rate-kept"]
    for name in config_names("gates"):
        assert main(["validate", "--gates", name]) == 0, capsys.readouterr().err
    for name in ("leaderboard", "quick"):  # the gates of win rates take whatever tasks there are
        preset, tasks = load_suite_preset("reasoning", name), []
        for gate in load_gates(name).gates:
            covered = gate.select(list(preset.tasks()))
            groups = [preset.tasks()[task] for task in covered]
            assert all((gate.metric or group.metrics[0]) in group.metrics for group in groups)
            limits = [group.limit for group in groups]
            assert None in limits or gate.items == sum(limits)
            tasks += covered
        assert sorted(tasks) == sorted(preset.tasks())


@pytest.mark.parametrize("right", [0, 10], ids=["nothing right", "as much right as the margin"])
def test_a_baseline_that_cannot_fall_by_the_margin_keeps_nothing(tmp_path, right):
    for name in ("a", "b"):
        make_run(tmp_path / name, {"alpha": [1] * right + [0] * (1000 - right)}, name)
    runs = ["gate", str(tmp_path / "a"), "--baseline", str(tmp_path / "b"), "--gates"]
    gates = "version: 1\ngates: {alpha: {margin: %s}}\n"
    assert main([*runs, gates_file(tmp_path, gates % 0.01)]) == 3
    notes = decision(tmp_path)["gates"][0]["notes"]
    assert any("whatever the candidate does would be kept" in note for note in notes)
    assert main([*runs, gates_file(tmp_path, gates % 0.009)]) == (0 if right else 3)


def test_a_metric_that_is_better_when_smaller_can_have_nothing_to_lose_either(tmp_path):
    for name in ("a", "b"):
        folder = make_run(tmp_path / name, {"alpha": [1] * 200}, name)
        result = read_result(folder)
        scores = tuple(dataclasses.replace(s, higher_is_better=False) for s in result.scores)
        write_run(folder, dataclasses.replace(result, scores=scores), read_items(folder))
    runs = ["gate", str(tmp_path / "a"), "--baseline", str(tmp_path / "b"), "--gates"]
    assert main([*runs, gates_file(tmp_path)]) == 3


def test_a_baseline_at_chance_is_noted(tmp_path):
    for name in ("a", "b"):
        folder = make_run(tmp_path / name, {"alpha": [1] * 50 + [0] * 150}, name)
        result = read_result(folder)
        scores = tuple(dataclasses.replace(score, normalised=0.0) for score in result.scores)
        write_run(folder, dataclasses.replace(result, scores=scores), read_items(folder))
    runs = ["gate", str(tmp_path / "a"), "--baseline", str(tmp_path / "b"), "--gates"]
    assert main([*runs, gates_file(tmp_path)]) == 0
    assert "at or below chance" in decision(tmp_path)["gates"][0]["notes"][0]


def gates_file(tmp_path, text="version: 1\ngates: {alpha: {}}\n"):
    (tmp_path / "own.yaml").write_text(text)
    return str(tmp_path / "own.yaml")


def test_made_items_are_what_a_run_writes(tmp_path):
    assert read_items(make_run(tmp_path, {"alpha": [1, 0]})) == make_items("alpha", [1, 0])


def test_a_reader_that_goes_away_changes_no_exit_code(place):
    command = " ".join([sys.executable, "-m", "eval_harness", *place(alpha=REGRESSED)])
    script = f"{command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_fault_of_the_harness_does_not_read_as_regressed(place, tmp_path, capsys, monkeypatch):
    args = place()
    assert main(args) == 0
    monkeypatch.setattr("eval_harness.gate.decide.holm", lambda p_values: 1 / 0)
    assert main(args) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert not list((tmp_path / "a" / "report").iterdir())
