"""The step benchmark measures what it says: its rows compute what they stand for, and its scripts run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.adapters.prefix.attention import SDPA

REPO = Path(__file__).resolve().parents[2]
STEP = REPO / "benchmarks" / "step"
if not STEP.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(REPO))

from benchmarks.step import bare, models, report, rows, workloads  # noqa: E402

WORK = workloads.Workload("made", vocabulary=50, pairs=3, micro=3, most=0, length=12, share=0.4)


@pytest.fixture(scope="module", autouse=True)
def upstream():
    import_openrlhf()


@pytest.fixture
def pair_of_models():
    return models.build(models.TINY, WORK.vocabulary)


@pytest.fixture(scope="module")
def batch():
    """Ragged pairs, so that both sides are padded somewhere."""
    pairs = [
        (torch.tensor(p + c), torch.tensor(p + r), len(p))
        for p, c, r in (
            ([3, 4, 5], [6, 7, 8, 1], [9, 1]),
            ([5, 3], [10, 1], [12, 6, 7, 9, 1]),
            ([8, 9, 4, 3], [3, 1], [4, 4, 1]),
        )
    ]
    return workloads.collate(pairs)


def loss_and_gradients(made, pair, batch):
    pair.policy.zero_grad(set_to_none=True)
    made.mask_source.zero_grad(set_to_none=True)
    loss = made.loss(batch)
    loss.backward()
    parameters = [*pair.policy.parameters(), *made.mask_source.parameters()]
    return loss.item(), [p.grad for p in parameters if p.grad is not None]


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert len(found[1]) == len(expected[1])
    for one, two in zip(found[1], expected[1]):
        torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in expected[1]) > 1e-3


def test_the_gpu_scripts_dpo_is_openrlhfs(pair_of_models, batch):
    upstream = rows.VARIANTS[rows.BASE].build(pair_of_models, ())
    expected = loss_and_gradients(upstream, pair_of_models, batch)
    assert_same(
        loss_and_gradients(bare.PlainDPO(pair_of_models), pair_of_models, batch),
        expected,
    )


@pytest.mark.parametrize("head", ["auto", "rows", "off"])
@pytest.mark.parametrize("shared", ["sequences", "mask", None])
def test_ours_without_a_framework_is_sparsepo_written_down_plainly(pair_of_models, batch, head, shared):
    objective = bare.objective_of("sparsepo", pair_of_models)
    plain = bare.PlainSparsePO(pair_of_models, objective)
    expected = loss_and_gradients(plain, pair_of_models, batch)
    kernel = {"mask": SDPA}.get(shared)
    ours = bare.Ours(pair_of_models, objective, head=head, shared=shared is not None, kernel=kernel)
    with ours.ready():
        assert_same(loss_and_gradients(ours, pair_of_models, batch), expected)


def test_a_row_leaves_the_models_as_they_were(pair_of_models):
    def attention():
        return [model.config._attn_implementation for model in pair_of_models]

    ours = bare.Ours(pair_of_models, bare.objective_of("dpo", pair_of_models), attention="eager")
    assert attention() == ["sdpa", "sdpa"]
    with ours.ready():
        assert all(name.endswith("prefix_varlen_eager") for name in attention())
    assert attention() == ["sdpa", "sdpa"]


def test_without_blocks_a_model_is_its_norm_and_head():
    pair = models.build(models.TINY, 50, head_only=True)
    ids = torch.tensor([[3, 4, 5]])
    states = pair.policy.model.norm(pair.policy.model.embed_tokens(ids))
    torch.testing.assert_close(pair.policy(ids).logits, pair.policy.lm_head(states))
    trained = {name for name, value in pair.policy.named_parameters() if value.requires_grad}
    assert trained == {"model.norm.weight", "lm_head.weight"}


@pytest.mark.parametrize("name", ["tldr", "hh"])
def test_committed_lengths(name):
    told = json.loads((STEP / "lengths" / f"{name}.json").read_text())
    assert len(told["tokens"]) == 400
    assert all(len(triple) == 3 and min(triple) > 0 for triple in told["tokens"])
    found = workloads.triples(workloads.Workload(name, most=128))
    assert 0 < len(found) < 400
    assert max(prompt + max(responses) for prompt, *responses in found) == 128


def test_steps_are_reproducible_and_share_the_prompt_alone():
    work = workloads.Workload("hh", pairs=6, micro=2, vocabulary=5)
    one, two = (workloads.steps(work, 2, seed=4) for _ in range(2))
    for step, again in zip(one, two):
        assert [batch.prompts for batch in step] == [batch.prompts for batch in again]
        assert len(step) == 3
        for batch, same in zip(step, again):
            assert torch.equal(batch.chosen[0], same.chosen[0])
            for chosen, rejected, prompt in zip(batch.chosen[0], batch.rejected[0], batch.prompts):
                assert torch.equal(chosen[:prompt], rejected[:prompt])
                assert chosen[prompt] != rejected[prompt]


def test_sorting_keeps_the_pairs():
    step = workloads.steps(workloads.Workload("hh", pairs=8, micro=2), 1)[0]
    order = sorted(range(8), key=workloads.sizes(step).__getitem__)
    moved = workloads.by_length(step, order)
    assert workloads.sizes(moved) == sorted(workloads.sizes(step))
    assert sum(batch.tokens() for batch in moved) == sum(batch.tokens() for batch in step)
    assert sum(batch.padded() for batch in moved) < sum(batch.padded() for batch in step)


def test_unknown_workload():
    with pytest.raises(ValueError, match="expected made or one of"):
        workloads.triples(workloads.Workload("reddit"))


def test_ratios_are_taken_within_rounds():
    assert report.ratios([1, 4, 2], [2, 2, 2]) == (1.0, 0.5, 2.0)


def run(out, *command, **environment):
    environment = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=REPO, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


# Refuses what a machine with torch and transformers alone does not have.
BARE = """
import runpy, sys
for name in ("openrlhf", "deepspeed", "peft", "trl", "axolotl", "ray", "datasets"):
    sys.modules[name] = None
sys.argv = ["gpu.py", *sys.argv[1:]]
sys.path.insert(0, "benchmarks/step")
runpy.run_path("benchmarks/step/gpu.py", run_name="__main__")
"""


@pytest.mark.slow
def test_the_gpu_script_runs_on_torch_and_transformers_alone(tmp_path):
    out = tmp_path / "bench.csv"
    found = run(
        out, "-c", BARE, "--tiny", "--rounds", "1", "--longest", "512", "--out", str(out), OMP_NUM_THREADS="1"
    )
    assert {row["workload"] for row in found} == {
        "made, 16 tokens, prompt 50%",
        "made, 32 tokens, prompt 50%",
        "hh",
    }
    for row in found:
        assert float(row["wall_s"]) > 0
        assert row["commit"]


@pytest.mark.slow
def test_make_bench_runs_every_row(tmp_path):
    out = tmp_path / "bench.csv"
    options = [
        "--tiny",
        "--vocabulary",
        "500",
        "--pairs",
        "4",
        "--micro",
        "2",
        "--most",
        "48",
        "--rounds",
        "1",
    ]
    options += ["--memory-rounds", "1", "--threads", "1", "--workloads", "hh", "--out", str(out)]
    found = run(out, "-m", "benchmarks.step.run", *options)
    rows_run = {row["row"] for row in found}
    assert rows_run >= set(rows.VARIANTS) - {"trl dpo"}
    assert {row["wall_ratio"] for row in found if row["row"] == rows.BASE} == {"1.0"}
    assert all(float(row["step_mib"]) >= 0 for row in found)
