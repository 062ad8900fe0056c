"""Epochs that are no multiple of the batch: resumes and two processes give the unbroken run's numbers."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file
from training import FP32, SPARSE, run_many

from sparsepo_plugin import checkpoint
from sparsepo_plugin.demo.language import generate_pairs, write_jsonl

pytestmark = pytest.mark.slow
# 3 epochs of 11 pairs are 8 steps of 4 and a pair; of 10 pairs 7 steps and a half.
STEPS = {10: 7, 11: 8}
VARIANTS = {
    "dropout": (10, ["--sparsepo.dropout", "0.2"]),
    "batched": (11, ["--data.length_batching"]),
    "upstream": (10, []),
}
RESUMED = [(key, step) for key in ("dropout", "batched") for step in range(1, STEPS[VARIANTS[key][0]])]
RESUMED += [("upstream", 3), ("upstream", 6)]


@pytest.fixture(scope="module")
def argvs(inputs, tmp_path_factory):
    """The command of every variant; checkpoints of every step are kept."""
    folder = tmp_path_factory.mktemp("odd-data")
    made = {}
    for name, (pairs, flags) in VARIANTS.items():
        write_jsonl(generate_pairs(pairs, 5), folder / f"{pairs}.jsonl")
        loss = [] if name == "upstream" else SPARSE
        made[name] = [
            *inputs.flags(), *FP32, *loss, *flags, "--data.dataset", str(folder / f"{pairs}.jsonl"),
            *("--train.max_epochs", "3", "--train.batch_size", "4", "--train.micro_batch_size", "2"),
            *("--ckpt.save_steps", "1", "--ckpt.max_num", "20", "--adam.eps", "1e-5"),
        ]  # fmt: skip
    return made


def with_places(argvs, folder, name, key):
    return [*argvs[key], "--ckpt.path", str(folder / name / "steps")]


@pytest.fixture(scope="module")
def unbroken(argvs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    return run_many(folder, {key: with_places(argvs, folder, key, key) for key in VARIANTS})


@pytest.fixture(scope="module")
def resumed(argvs, unbroken, tmp_path_factory):
    """Variants taken up after a step, as if they had been killed then."""
    folder = tmp_path_factory.mktemp("odd-resumed")
    runs = {}
    for key, step in RESUMED:
        name = f"{key} {step}"
        shutil.copytree(unbroken[key].folder / "steps", folder / name / "steps")
        for file in ("metrics.jsonl", "sparsepo_config.yaml", "sparsepo_run.json"):
            if (unbroken[key].folder / file).exists():
                shutil.copy(unbroken[key].folder / file, folder / name)
        for later in range(step + 1, STEPS[VARIANTS[key][0]] + 1):
            shutil.rmtree(folder / name / f"steps/global_step{later}")
        runs[name] = [*with_places(argvs, folder, name, key), "--ckpt.load_enable"]
    return run_many(folder, runs)


@pytest.fixture(scope="module")
def by_two(argvs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd-two")
    return run_many(folder, {key: with_places(argvs, folder, key, key) for key in VARIANTS}, processes=2)


def same_weights(one, other, tolerance):
    files = ["model.safetensors", checkpoint.WEIGHTS]
    for file in files if (one.folder / checkpoint.WEIGHTS).exists() else files[:1]:
        left, right = (load_file(run.folder / file) for run in (one, other))
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert (value - right[name]).abs().max() <= tolerance, name


@pytest.mark.parametrize("key", [key for key in VARIANTS if key != "upstream"])
def test_the_unbroken_run_takes_every_whole_batch_and_says_what_is_left(key, unbroken):
    run, pairs = unbroken[key], VARIANTS[key][0]
    assert run.code == 0, run.err[-2000:]
    assert [row["step"] for row in run.lines("train")] == list(range(1, STEPS[pairs] + 1))
    left = 3 * pairs - 4 * STEPS[pairs]
    assert f"the last {left} of {3 * pairs} draws fill no batch and reach no step" in run.out
    rates = [row["learning_rate"] for row in run.lines("train")]
    assert rates[-1] == min(rates[1:])  # a schedule of too few steps would rise again
    assert len(set(run.losses())) >= STEPS[pairs] - 1


@pytest.mark.parametrize(("key", "step"), RESUMED)
def test_a_resume_from_every_step_gives_the_unbroken_runs_numbers(key, step, unbroken, resumed):
    whole, rest = unbroken[key], resumed[f"{key} {step}"]
    assert rest.code == 0, rest.err[-2000:]
    same_weights(whole, rest, 0)
    if key != "upstream":
        assert rest.losses() == whole.losses()
        assert [row["step"] for row in rest.lines("train")] == [row["step"] for row in whole.lines("train")]


@pytest.mark.parametrize("key", ["batched", "upstream"])
def test_two_processes_equal_one(key, unbroken, by_two):
    one, two = unbroken[key], by_two[key]
    assert two.code == 0, two.err[-2000:]
    same_weights(one, two, 1e-5)
    if key != "upstream":
        assert two.losses() == pytest.approx(one.losses(), abs=1e-5)
