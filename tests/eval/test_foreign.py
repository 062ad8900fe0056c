"""`gate A B` on results of other programs: the verdicts of our own runs of the same items."""

import json
import random
import subprocess
import sys

import pytest

import eval_harness
from eval_harness.cli.app import main
from eval_harness.errors import UserError
from eval_harness.gate.verdicts import parse_decision

from .conftest import REPO
from .foreign_files import FIXTURES, KINDS, MADE, LmEval, as_lm_eval_045
from .runs import make_run

NAMES = {"jsonl": "items", "alpaca_eval": "alpaca_eval"}


def gate(a, b, *words, report):
    code = main(["gate", str(a), str(b), *map(str, words), "--report", str(report)])
    return code, parse_decision(json.loads((report / "report.json").read_text()))


def own(tmp_path, task, ours, theirs, clusters=None):
    """The verdict of run folders of ours with these scores."""
    first = make_run(tmp_path / "own-a", {task: ours}, "a", clusters)
    second = make_run(tmp_path / "own-b", {task: theirs}, "b", clusters)
    return gate(first, second, report=tmp_path / "own-report")


def same(found, expected):
    (code, decision), (own_code, own_decision) = found, expected
    assert code == own_code
    assert decision.verdict == own_decision.verdict
    assert [g.paired for g in decision.gates] == [g.paired for g in own_decision.gates]
    assert [g.p_holm for g in decision.gates] == [g.p_holm for g in own_decision.gates]


@pytest.mark.parametrize("kind", sorted(NAMES))
@pytest.mark.parametrize("turned", [False, True])
def test_the_verdict_is_that_of_our_own_run(tmp_path, kind, turned):
    first, second = ("b", "a") if turned else ("a", "b")
    a, b = KINDS[kind](tmp_path, first), KINDS[kind](tmp_path, second)
    found = gate(a.path(), b.path(), report=tmp_path / "report")
    same(found, own(tmp_path, NAMES[kind], MADE[first], MADE[second]))
    assert found[0] == (0 if turned else 1)


def drawn(seed, share, number, epochs=1):
    """What make_inspect.py drew for its models."""
    names = [f"q{i:02d}" for i in range(number)]
    rows = [
        [float(random.Random(f"{seed} {n} {k}").random() < share) for k in range(1, epochs + 1)]
        for n in names
    ]
    return rows if epochs > 1 else [row[0] for row in rows]


@pytest.mark.parametrize(
    ("suffix", "number", "epochs"),
    [(".eval", 24, 1), ("_0.3.70.eval", 24, 1), ("_json.json", 12, 1), ("_epochs.eval", 8, 4)],
)
@pytest.mark.parametrize("stories", [False, True])
def test_logs_of_inspect(tmp_path, suffix, number, epochs, stories):
    a, b = (FIXTURES / "inspect" / f"{name}{suffix}" for name in "ab")
    words = ["--cluster", "story"] if stories else []
    clusters = [str(i // 3) for i in range(number)] if stories else None
    found = gate(a, b, *words, report=tmp_path / "report")
    expected = own(
        tmp_path, "numbers", drawn(1, 0.5, number, epochs), drawn(2, 0.9, number, epochs), clusters
    )
    same(found, expected)
    assert found[1].gates[0].metric == ("match,mean@4" if epochs > 1 else "match,none")


def test_pass_at_k_of_epochs(tmp_path):
    a, b = (FIXTURES / "inspect" / f"{name}_epochs.eval" for name in "ab")
    decision = eval_harness.gate(a, b, metrics=["match,pass@4"])
    means = [sum(max(row) for row in drawn(seed, share, 8, 4)) / 8 for seed, share in ((1, 0.5), (2, 0.9))]
    assert [decision.gates[0].paired.candidate, decision.gates[0].paired.baseline] == pytest.approx(means)


def test_eval_and_json_are_one_format(tmp_path):
    a, b = (FIXTURES / "inspect" / name for name in ("a.eval", "b_0.3.70.eval"))
    assert gate(a, b, report=tmp_path / "report")[0] == 1


@pytest.mark.parametrize("old", [False, True])
def test_folders_of_lm_eval(tmp_path, old):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    rows = {r.name: [row["acc"] for row in r.read()] for r in (a, b)}
    words = ["--metric", "acc", "--metric", "exact_match,strict-match"]
    if old:
        as_lm_eval_045(a), as_lm_eval_045(b)
    code, decision = gate(a.path(), b.path(), *words, report=tmp_path / "report")
    verdicts = {g.name: g for g in decision.gates}
    assert set(verdicts) == {"storycloze_2016", "swag", "gsm8k"}
    found = verdicts["storycloze_2016"].paired
    assert (found.candidate, found.baseline) == (sum(rows["a"]) / 40, sum(rows["b"]) / 40)
    assert verdicts["gsm8k"].metric == "exact_match,strict-match"
    assert code == 1
    # the results file itself names one evaluation too
    assert gate(a.results(), b.results(), *words, report=tmp_path / "again")[1].gates == decision.gates


def test_what_lm_eval_045_wrote(tmp_path):
    a, b = (FIXTURES / "lm_eval_0.4.5" / name for name in "ab")
    rows = [
        [json.loads(line)["acc"] for line in next(folder.glob("samples_toy_swag_*")).read_text().splitlines()]
        for folder in (a, b)
    ]
    _, decision = gate(a, b, "--metric", "acc", report=tmp_path / "report")
    expected = own(tmp_path, "toy_swag", *rows)[1].gates[0].paired
    assert next(g.paired for g in decision.gates if g.name == "toy_swag") == expected


def test_a_gates_file_takes_foreign_results(tmp_path):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    gates = tmp_path / "gates.yaml"
    gates.write_text(
        "version: 1\nmargin: 0.5\ngates: {both: {tasks: [swag, storycloze_2016], metric: 'acc,none'}}\n"
    )
    code, decision = gate(a.path(), b.path(), "--gates", gates, report=tmp_path / "report")
    assert (code, decision.verdict, decision.gates[0].items) == (0, "KEPT", 80)


def test_of_several_metrics_one_must_be_named(tmp_path, capsys):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    assert main(["gate", str(a.path()), str(b.path())]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "which metric" in error
    assert "--metric" in error


def test_the_log_likelihood_of_the_gold_answer_is_a_metric(tmp_path):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    spec = {"tasks": ["storycloze_2016"], "metric": "gold_share,none"}
    decision = eval_harness.gate(a.path(), b.path(), {"version": 1, "gates": {"gold": spec}})
    assert decision.gates[0].paired.method == "nonparametric tilting"
    assert decision.verdict == "REGRESSED"


def test_repeats_of_plain_rows(tmp_path):
    for name, share in (("a", 0.5), ("b", 0.9)):
        rng = random.Random(name)
        rows = [
            {"id": i, "repeat": k, "score": int(rng.random() < share)} for i in range(30) for k in range(4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    all_repeats = eval_harness.gate(*files).gates[0]
    assert (all_repeats.metric, all_repeats.paired.n, all_repeats.paired.clusters) == (
        "score,mean@4",
        120,
        30,
    )
    best = eval_harness.gate(*files, metrics=["score,pass@2"]).gates[0]
    assert (best.paired.n, best.metric) == (30, "score,pass@2")
    assert best.paired.baseline > all_repeats.paired.baseline


def test_the_import_is_stable_and_light():
    code = (
        "import sys, eval_harness; assert 'scipy' not in sys.modules and 'numpy' not in sys.modules\n"
        "import eval_harness.gate.compare\nfrom eval_harness import gate, UserError\n"
        "assert eval_harness.gate.compare and callable(eval_harness.gate) and gate is eval_harness.gate\n"
        "try:\n    gate('nothing', 'there')\nexcept UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no such result; got: nothing")


def test_the_function_takes_what_the_command_takes(tmp_path):
    a, b = (KINDS["jsonl"](tmp_path, name).path() for name in "ab")
    assert eval_harness.gate(a, b).verdict == "REGRESSED"
    assert eval_harness.gate(str(b), str(a)).exit_code == 0
    assert eval_harness.gate(a, b, margin=0.7).verdict == "KEPT"
    assert eval_harness.gate(a, b, {"version": 1, "margin": 0.7, "gates": {"items": None}}).verdict == "KEPT"
    with pytest.raises(UserError, match="one of the two ways"):
        eval_harness.gate(a, b, "quick", margin=0.7)


def test_pages_show_the_foreign_texts(tmp_path):
    a, b = (KINDS["alpaca_eval"](tmp_path, name).path() for name in "ab")
    gate(a, b, report=tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "What is 3?" in page or "What is 0?" in page
    assert ", says a." in page


def test_a_report_of_files_lies_beside_them(tmp_path):
    a, b = (KINDS["jsonl"](tmp_path, name).path() for name in "ab")
    assert main(["gate", str(a), str(b)]) == 1
    assert (tmp_path / "a.jsonl.report" / "junit.xml").is_file()


@pytest.mark.slow
def test_lm_eval_itself_and_our_run_agree(trained, choice_tasks, tmp_path):
    """The same model and items through lm-eval's own command line, against a model with other weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * weights.std().nan_to_num() * torch.randn_like(weights))
    model.save_pretrained(tmp_path / "worse")
    AutoTokenizer.from_pretrained(trained).save_pretrained(tmp_path / "worse")
    words = ["--suites", f"reasoning:{choice_tasks / 'tasks.yaml'}", "--data", choice_tasks / "data.yaml"]
    words += ["--device", "cpu", "--limit", 100, "--cache", tmp_path / "cache", "--out", tmp_path / "own"]
    assert (
        main(["run", "--model", str(tmp_path / "worse"), "--baseline", str(trained), *map(str, words)]) == 0
    )
    tasks = tmp_path / "own" / "tasks"
    for name, folder in (("worse", tmp_path / "worse"), ("trained", trained)):
        command = [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--limit", "100"),
            *("--model_args", f"pretrained={folder},dtype=float32", "--include_path", str(tasks)),
            *("--tasks", ",".join(path.stem for path in tasks.glob("*.yaml")), "--log_samples"),
            *("--output_path", str(tmp_path / "lm_eval" / name)),
        ]
        subprocess.run(command, check=True, capture_output=True)
    gates = ["--gates", choice_tasks / "gates.yaml"]
    metric = ["--metric", "acc"]
    theirs = gate(
        tmp_path / "lm_eval/worse", tmp_path / "lm_eval/trained", *gates, *metric, report=tmp_path / "r"
    )
    ours = gate(tmp_path / "own", tmp_path / "own/baseline", *gates, report=tmp_path / "own-r")
    assert theirs[0] == ours[0]
    for foreign, mine in zip(theirs[1].gates, ours[1].gates, strict=True):
        assert (foreign.verdict, foreign.items) == (mine.verdict, mine.items)
        assert (foreign.paired.difference, foreign.paired.lost) == (mine.paired.difference, mine.paired.lost)
