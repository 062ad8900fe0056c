"""AlpacaEval: stored annotations through our importer, and the real package in its own environment.

The package's tests need an interpreter that has it, EVAL_HARNESS_ALPACA_PYTHON; `make test-alpaca` makes one.
"""

import gzip
import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest

from eval_harness.cli.app import main
from eval_harness.errors import UserError
from eval_harness.judges.recorded import read_annotations
from eval_harness.run.folder import read_items, read_result
from eval_harness.win_rate import official
from eval_harness.win_rate.comparisons import METRIC

from .conftest import REPO
from .judge_server import Judge, prefers

MODELS = ["text_davinci_003", "alpaca-7b", "claude-2", "FuseChat-Llama-3.1-8B-Instruct"]
# The package's own template shows texts like this.
OFFICIAL = re.compile(r'"m",\s*"output": """(.*?)""".*"M",\s*"output": """(.*?)"""', re.DOTALL)
FAST = ["--device", "cpu"]


@pytest.fixture
def stored(shared):
    return shared.parent / "alpaca_eval"


@pytest.fixture
def package():
    """An interpreter with alpaca-eval 0.6.6."""
    named = os.environ.get("EVAL_HARNESS_ALPACA_PYTHON")
    if not named:
        assert not os.environ.get("SPARSEPO_REQUIRE_ALPACA")
        pytest.skip("set EVAL_HARNESS_ALPACA_PYTHON, or make test-alpaca")
    return named


def in_package(python, code, *args):
    done = subprocess.run(
        [python, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def replay(stored, model, tmp_path):
    annotations = stored / f"{model}_gpt4turbo_annotations.jsonl.gz"
    reference = stored / "gpt4_1106_preview_outputs.jsonl.gz"
    args = ["run", "--suites", "win_rate:alpaca_eval", "--model", annotations, "--baseline", reference, *FAST]
    args += ["--prompts", reference, "--judge", "recorded", "--judge-set", f"file={annotations}"]
    assert main([*map(str, args), "--out", str(tmp_path / model), "--cache", str(tmp_path / "cache")]) == 0
    return read_result(tmp_path / model), annotations


@pytest.mark.parametrize("model", MODELS)
def test_stored_annotations_give_their_mean(stored, model, tmp_path):
    result, annotations = replay(stored, model, tmp_path)
    with gzip.open(annotations, "rt") as lines:
        by_hand = [json.loads(line)["preference"] - 1 for line in lines]
    score = result.score("alpaca_eval", METRIC)
    assert score.value == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-9)
    mean = sum(by_hand) / len(by_hand)
    spread = sum((v - mean) ** 2 for v in by_hand) / (len(by_hand) - 1)
    assert score.stderr == pytest.approx(math.sqrt(spread / len(by_hand)), abs=1e-9)
    assert result.counts["judge_failed"] == result.counts["judge_unparsable"] == 0


COUNT = """
import json, sys
import pandas as pd
from alpaca_eval.metrics import get_winrate
found = get_winrate(pd.read_json(sys.argv[1], lines=sys.argv[1].endswith(".gz"), orient="records"))
print(json.dumps([found["win_rate"] / 100, found["standard_error"] / 100, int(found["n_total"])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_real_package_counts_the_same(stored, package, model, tmp_path):
    result, annotations = replay(stored, model, tmp_path)
    rate, error, count = json.loads(in_package(package, COUNT, annotations))
    score = result.score("alpaca_eval", METRIC)
    assert score.value == pytest.approx(rate, abs=1e-9)
    assert score.stderr == pytest.approx(error, abs=1e-9)
    assert score.n == count


def outputs(path, name, every, count=25):
    rows = [
        {
            "instruction": f"question {n}",
            "output": f"{'GOOD' if n % every == 0 else 'plain'} text of {name} {n}",
        }
        for n in range(count)
    ]
    path.write_text(json.dumps(rows))
    return path


class Both(Judge):
    """Answers this project's templates, and the package's with log-probabilities of m and M."""

    def answer(self, body):
        shown = OFFICIAL.search(body["messages"][-1]["content"])
        if not shown:
            return super().answer(body)
        good = [("GOOD" in text) for text in shown.groups()]
        chance = 0.5 if good[0] == good[1] else 0.9 if good[0] else 0.2
        top = [
            {"token": t, "logprob": math.log(p), "bytes": None} for t, p in (("m", chance), ("M", 1 - chance))
        ]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "m"}}
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
        fixed = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge"}
        return {**fixed, "choices": [choice], "usage": usage}


@pytest.fixture
def official_run(tmp_path, package):
    files = [outputs(tmp_path / "c.json", "c", 3), outputs(tmp_path / "b.json", "b", 4)]

    def call(server, *extra, out="out"):
        args = ["run", "--suites", "win_rate:own", "--model", files[0], "--baseline", files[1], *FAST]
        args += ["--prompts", files[0], "--judge", "http", "--judge-set", f"url={server.url}"]
        args += ["--judge-set", "model=judge", "--alpaca-official", *extra]
        return main([*map(str, args), "--out", str(tmp_path / out), "--cache", str(tmp_path / "cache")])

    return call


@pytest.mark.slow
def test_the_real_package_runs_and_our_count_of_its_judgements_is_its_own(
    official_run, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-90cd")
    with Both(prefers("GOOD")) as server:
        assert official_run(server) == 0
        asked = [b for b in server.bodies if OFFICIAL.search(b["messages"][-1]["content"])]
        assert len(asked) == 25
        keys = {v for h in server.headers for k, v in h.items() if k.lower() == "authorization"}
        assert keys == {"Bearer sk-canary-90cd"}
        assert official_run(server, "--overwrite", out="again") == 0
        assert len(server.bodies) == 50 + 25
    facts = dict(read_result(tmp_path / "out").facts)
    name = "official alpaca-eval 0.6.6 (weighted_alpaca_eval_gpt4_turbo)"
    assert "not defined for 25 prompts" in facts[f"{name}: length-controlled win rate"]
    (answer,) = (tmp_path / "cache" / "alpaca-official").rglob("answer.json")
    said = json.loads(answer.read_text())
    assert facts[f"{name}: win rate"].startswith(f"{said['win_rate']:.4f}")
    judged = Path(said["annotations"])
    ours = [share for *_, share in read_annotations(judged)]
    assert sum(ours) / len(ours) == pytest.approx(said["win_rate"], abs=1e-9)
    args = [
        "run",
        "--suites",
        "win_rate:own",
        "--model",
        tmp_path / "c.json",
        "--baseline",
        tmp_path / "b.json",
    ]
    args += ["--prompts", tmp_path / "c.json", "--judge", "recorded", "--judge-set", f"file={judged}", *FAST]
    assert main([*map(str, args), "--out", str(tmp_path / "r"), "--cache", str(tmp_path / "cache")]) == 0
    score = read_result(tmp_path / "r").score("own", METRIC)
    assert score.value == pytest.approx(said["win_rate"], abs=1e-9)
    assert score.stderr == pytest.approx(said["standard_error"], abs=1e-9)
    assert "alpaca-eval: weighted" in capfd.readouterr().err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"sk-canary-90cd" not in path.read_bytes(), path


CONTROL = """
import json, random, runpy, sys
from unittest import mock
import pandas as pd
script = runpy.run_path(sys.argv[1])
rng = random.Random(0)
rows = [
    {"instruction": f"q{n}", "output_1": "b" * rng.randint(50, 400), "output_2": "c" * rng.randint(50, 500),
     "generator_1": "b", "generator_2": "c", "annotator": "a", "preference": 1 + rng.random()}
    for n in range(805)
]
offline = script["controlled"](rows)
gamed = [
    {"model": m, "index": n, "preference": rng.random(), "std_delta_len": rng.gauss(0, 1),
     "instruction_difficulty": rng.gauss(0, 1), "not_gamed_baseline": False}
    for m in ("x", "y") for n in range(805)
]
pd.DataFrame(gamed).to_csv(sys.argv[2], index=False)
with mock.patch("alpaca_eval.metrics.glm_winrate.hf_hub_download", lambda **_: sys.argv[2]):
    online = script["controlled"](rows)
print(json.dumps([offline, online]))
"""


@pytest.mark.slow
def test_the_packages_length_control_is_read_back_where_its_table_is_at_hand(package, tmp_path):
    script = REPO / "eval_harness" / "win_rate" / "official_script.py"
    offline, online = json.loads(in_package(package, CONTROL, script, tmp_path / "gamed.csv"))
    assert offline.startswith("unavailable offline")
    assert 0.3 < online < 0.7


@pytest.mark.slow
def test_what_the_package_judged_before_it_died_is_kept(official_run, tmp_path, capfd):
    with Both(prefers("GOOD")) as server:
        plain, official_calls = server.answer, []

        def answer(body):
            if OFFICIAL.search(body["messages"][-1]["content"]):
                official_calls.append(1)
                if 15 <= len(official_calls) < 20:
                    return {"error": "no"}
            return plain(body)

        server.answer = answer
        assert official_run(server) == 2
        assert "alpaca-eval failed" in capfd.readouterr().err
        assert not (tmp_path / "out" / "result.json").exists()
        first = len(official_calls)
        del server.answer
        before = len(server.bodies)
        assert official_run(server) == 0
        assert len(server.bodies) - before == 15  # ten were on disk
        assert first >= 15


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("EVAL_HARNESS_ALPACA_PYTHON", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    said = []
    with pytest.raises(UserError, match="EVAL_HARNESS_ALPACA_PYTHON"):
        official.environment_python(tmp_path, said.append)
    assert "once" in said[0]
    assert not list((tmp_path / "environments").iterdir())


def test_annotations_are_read_as_the_package_counts_them(tmp_path):
    path = tmp_path / "a.json"
    rows = [(1.0, 0.0), (2, 1.0), (1.5, 0.5), (0, 0.5), (1.25, 0.25), (None, None)]
    path.write_text(
        json.dumps(
            [{"instruction": str(i), "output_2": "x", "preference": p} for i, (p, _) in enumerate(rows)]
        )
    )
    assert [share for *_, share in read_annotations(path)] == [share for _, share in rows]
    for bad in (3, "A", -1, True):
        path.write_text(json.dumps([{"instruction": "i", "output_2": "x", "preference": bad}]))
        with pytest.raises(UserError, match="preference"):
            read_annotations(path)


def test_missing_annotations_are_failed_not_won(tmp_path):
    files = [outputs(tmp_path / "c.json", "c", 3), outputs(tmp_path / "b.json", "b", 4)]
    rows = [
        {
            "instruction": f"question {n}",
            "output_2": json.loads(files[0].read_text())[n]["output"],
            "preference": 2,
        }
        for n in range(20)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    args = ["run", "--suites", "win_rate:own", "--model", files[0], "--baseline", files[1], *FAST]
    args += ["--prompts", files[0], "--judge", "recorded", "--judge-set", f"file={tmp_path}/a.json"]
    assert main([*map(str, args), "--out", str(tmp_path / "o"), "--cache", str(tmp_path / "c")]) == 0
    assert sum(i.metrics[METRIC] is None for i in read_items(tmp_path / "o")) == 5
    assert main(["gate", str(tmp_path / "o"), "--gates", "win_rate"]) == 3
