"""The GPU check: every step runs on CPU at small sizes, ends by itself, and its results become a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

REPO = Path(__file__).resolve().parents[2]
if not (REPO / "benchmarks/gpu_check").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(REPO))

from benchmarks.gpu_check import __main__ as driver  # noqa: E402
from benchmarks.gpu_check import plan, step, table  # noqa: E402
from benchmarks.gpu_check.report import Report, Setting, SkippedError  # noqa: E402
from benchmarks.step import bare, models, workloads  # noqa: E402

TINY = Setting(tiny=True)
# Whole trainings have processes of their own and minutes; tests/e2e and tests/modes run them.
QUICK = [name for name, one in plan.STEPS.items() if one.call != 3]


@pytest.fixture(scope="module", autouse=True)
def upstream():
    import_openrlhf()


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_step_runs_on_cpu(name):
    found = step.run(name, TINY)
    assert found["status"] in ("ok", "skipped"), found["told"]
    assert found["numbers"] or found["status"] == "skipped"
    json.dumps(found)


def test_the_calls_fit_into_ten_minutes_but_for_what_is_worth_least():
    assert {one.call for one in plan.STEPS.values()} == {1, 2, 3, 4}
    for one in plan.STEPS.values():
        assert one.seconds <= 200
    # Of every call the first half, by worth, has time in full.
    for call in (1, 2, 3, 4):
        limits = [one.seconds for one in plan.STEPS.values() if one.call == call]
        assert sum(limits[: len(limits) // 2]) <= driver.CALL_SECONDS


def works(report, setting):
    report.note("answer", 42)


def breaks(report, setting):
    report.note("before", 1)
    report.require("error", float("nan"), 1e-3)
    raise RuntimeError("device-side assert")


def skips(report, setting):
    raise SkippedError("no such tool")


@pytest.mark.parametrize(
    ("work", "status", "numbers", "told"),
    [
        (works, "ok", {"answer": 42}, ""),
        (breaks, "failed", {"before": 1}, "device-side assert"),
        (skips, "skipped", {}, "no such tool"),
    ],
)
def test_a_step_says_how_it_ended(work, status, numbers, told, monkeypatch):
    monkeypatch.setitem(plan.STEPS, "made", plan.Step(1, "made", 9, work))
    found = step.run("made", TINY)
    assert found["status"] == status
    assert numbers.items() <= found["numbers"].items()
    assert told in found["told"]


def test_a_number_above_its_limit_is_a_failure_and_a_nan_too():
    report = Report()
    report.require("good", 1e-6, 1e-5)
    report.require("large", 2e-5, 1e-5)
    report.require("nan", float("nan"), 1e-5)
    assert [line.split(":")[0] for line in report.broken] == ["large", "nan"]


def run_driver(out, *options, **variables):
    environment = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(out), *options],
        cwd=REPO, env={**environment, **variables}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_line_is_written_as_a_step_ends_and_what_is_known_is_not_run_again(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"name": "ceilings", "status": "ok"}\n{"cut')
    done = run_driver(tmp_path, "--tiny", "--only", "compute-sanitizer", "products")
    assert done.returncode == 0, done.stdout + done.stderr
    # The cut line is ended: what follows is readable.
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()[2:]]
    assert [(row["name"], row["status"]) for row in rows] == [
        ("compute-sanitizer", "skipped"),
        ("products", "ok"),
    ]
    assert all(row["tiny"] and row["card"] and row["commit"] for row in rows)
    again = run_driver(tmp_path, "--tiny", "--only", "products")
    if "dirty" not in rows[0]["commit"]:
        assert "0 steps" in again.stdout


def test_a_step_that_hangs_is_ended_with_its_children(monkeypatch, tmp_path):
    script = tmp_path / "hang.py"
    script.write_text(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    real = subprocess.Popen

    def hanging(command, **options):
        return real([sys.executable, str(script)], **options)

    monkeypatch.setattr(driver.subprocess, "Popen", hanging)
    row = driver.execute(plan.STEPS["ceilings"], True, 5.0)
    assert row["status"] == "timeout"
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the child of a step that hung is still there")


def test_without_a_device_full_sizes_are_refused_in_one_line(tmp_path):
    done = run_driver(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1] == "no CUDA device is visible: expected one; --tiny runs on CPU"
    )
    assert not (tmp_path / "results.jsonl").exists()


def a_result(name, **numbers):
    return {
        "name": name,
        "status": "ok",
        "tiny": False,
        "card": "NVIDIA H100",
        "commit": "abc",
        "versions": "torch 2",
        "numbers": numbers,
    }


def test_the_page_takes_its_table_from_the_results(tmp_path, monkeypatch):
    page, results = tmp_path / "page.md", tmp_path / "results.jsonl"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["table", str(results), str(page)])
    table.main()
    assert table.NOTHING in page.read_text()
    rehearsal = {**a_result("step: tldr"), "tiny": True, "card": "CPU"}
    results.write_text(json.dumps(rehearsal) + "\n")
    table.main()
    assert table.NOTHING in page.read_text()
    base, ours = "openrlhf dpo, padded", "sparsepo"
    numbers = {
        f"{base}: ratio": [1.0, 1.0, 1.0], f"{base}: MiB": 1000.0, f"{ours}: ratio": [0.4, 0.3, 0.5],
        f"{ours}: MiB": 250.0, "trl dpo: left out": "trl is not installed",
        "sparsepo, two rows: MiB": "out of memory",
    }  # fmt: skip
    bad = {**a_result("profile"), "status": "timeout"}
    lines = [json.dumps(row) for row in (a_result("step: tldr", **numbers), bad)]
    results.write_text("\n".join([*lines, '{"cut']))
    table.main()
    text = page.read_text()
    assert "| sparsepo | 0.40 [0.30 .. 0.50], 0.25 |" in text
    assert "| trl dpo | - |" in text
    assert "| sparsepo, two rows | does not fit |" in text
    assert "NVIDIA H100" in text
    assert "profile (timeout)" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_the_performance_page_says_what_there_is():
    page = (REPO / "docs/performance.md").read_text()
    inside = page.split(table.BEGIN)[1].split(table.END)[0].strip()
    assert inside == table.table({}) or "| sparsepo |" in inside


def test_packed_dpo_is_padded_dpo():
    pair = models.build(models.TINY, 50)
    work = workloads.Workload("made", vocabulary=50, pairs=3, micro=3, length=12, share=0.4)
    batch = workloads.steps(workloads.Workload("spread", 50, 4, 4, 0, 20, 0.4), 1)[0][0]
    for given in (batch, workloads.steps(work, 1)[0][0]):
        padded, packed = bare.PlainDPO(pair), bare.PackedDPO(pair)
        found = []
        for row in (padded, packed):
            pair.policy.zero_grad(set_to_none=True)
            with row.ready():
                loss = row.loss(given)
                loss.backward()
            found.append((float(loss), [p.grad.clone() for p in pair.policy.parameters()]))
        assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
        for one, other in zip(found[0][1], found[1][1]):
            assert (one - other).abs().max() < 1e-6
        assert pair.policy.config._attn_implementation == "sdpa"
