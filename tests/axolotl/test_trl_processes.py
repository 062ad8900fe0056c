"""Two processes under DDP: one mask module, the same as a single process trains."""

from __future__ import annotations

import json

import pytest
import torch
import train_twice
from trl_runs import lines, losses, run

from sparsepo_plugin import checkpoint


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory):
    """Two processes, then one with twice the batch."""
    folder = tmp_path_factory.mktemp("processes")
    for name in ("one", "two"):
        (folder / name).mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run([*launcher, "-m", "train_twice", str(tiny.root), str(folder / "two")], folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    (folder / "said.txt").write_text(done.stdout)
    train_twice.train(tiny, folder / "one", ("synchronised",))
    return folder


def state(out, kind, rank, part="masks"):
    return torch.load(out / f"{kind}-{rank}.pt")[part]


def difference(left, right):
    assert set(left) == set(right)
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.parametrize("kind", ["synchronised", "accumulated", "peft"])
def test_both_ranks_hold_the_same_mask_module_after_ten_steps(out, kind):
    for part in ("masks", "policy"):
        assert difference(state(out / "two", kind, 0, part), state(out / "two", kind, 1, part)) == 0


def test_a_mask_module_that_is_only_a_parameter_group_diverges(out):
    assert difference(state(out / "two", "naive", 0), state(out / "two", "naive", 1)) > 1e-4
    assert difference(state(out / "two", "naive", 0, "policy"), state(out / "two", "naive", 1, "policy")) == 0


def test_two_processes_train_what_one_trains_on_twice_the_batch(out):
    for kind in ("synchronised", "accumulated"):
        assert losses(out / "two" / kind) == pytest.approx(losses(out / "one/synchronised"), abs=1e-5)
        for part in ("masks", "policy"):
            one, two = state(out / "one", "synchronised", 0, part), state(out / "two", kind, 0, part)
            assert difference(one, two) < 1e-5


def test_evaluation_metrics_and_record_count_every_pair_once(out):
    """7 pairs on two processes: one copy pads the second one's last batch."""
    one, two = (lines(out / name / "synchronised", "eval") for name in ("one", "two"))
    assert [row["step"] for row in two] == [5, 10]
    for left, right in zip(one, two, strict=True):
        for name in set(left) - {"split"}:
            assert right[name] == pytest.approx(left[name], abs=1e-4), name
    records = [
        [json.loads(line) for line in (out / name / "synchronised/tokens.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(records[1]) == 14
    for left, right in zip(*records, strict=True):
        assert [left[key] for key in ("pair", "side", "tokens")] == [
            right[key] for key in ("pair", "side", "tokens")
        ]
        assert left["reward_mask"] == pytest.approx(right["reward_mask"], abs=1e-4)


def test_one_of_two_processes_closes_a_training(out):
    said = (out / "said.txt").read_text()
    trained = [folder for folder in (out / "two").iterdir() if (folder / "metrics.jsonl").is_file()]
    # Not by lines: what two processes write into one pipe can share a line.
    assert said.count("next: eval-harness run ") == len(trained)


def test_the_mask_module_is_saved_beside_every_checkpoint(out):
    saved = checkpoint.load_masks(out / "two/synchronised/checkpoint-10").module.state_dict()
    assert difference(saved, state(out / "two", "synchronised", 1)) == 0
    assert json.loads((out / "two/synchronised/sparsepo_run.json").read_text())["processes"] == 2
