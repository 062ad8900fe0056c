"""``--ref.precompute``: the numbers of a run with a reference, and none in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import FP32, WEIGHTED, run_many

from sparsepo_plugin import registry, train_dpo
from sparsepo_plugin.adapters import reference_logps
from sparsepo_plugin.adapters.openrlhf import flags, preflight
from sparsepo_plugin.errors import UserError

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("train_with_caches.py")
FIRST = "--ref.precompute"
NEEDS = {name: registry.get(name).options().needs() for name in registry.names()}
POSSIBLE = [name for name, needs in NEEDS.items() if reference_logps.possible(needs) and needs.reference]
WITHOUT = [name for name, needs in NEEDS.items() if not needs.reference]
# Modes in which the reference is run, whole and stored.
MODES = {
    "zero-3": ["--ds.zero_stage", "3"],
    "offloaded": ["--ds.zero_stage", "3", "--ref.offload"],
    "packed": ["--ds.packing_samples"],
    "two rows, all logits": ["--perf.prefix", "off", "--perf.head", "off"],
    "two rows, packed": ["--perf.prefix", "off", "--perf.head", "rows", "--ds.packing_samples"],
    "lora": ["--ds.lora.rank", "4", "--ds.lora.target_modules", "q_proj", "v_proj"],
    "dropout": ["--model.dropout"],
    "lengths": ["--data.length_batching"],
}


def flags_of(inputs, loss, *more):
    data, held_out = (inputs.train, inputs.held_out)
    if loss in WEIGHTED:
        data, held_out = (inputs.weighted, inputs.held_out_weighted)
    return [
        *inputs.flags(), *FP32, "--loss", loss, "--data.dataset", str(data),
        *("--eval.dataset", str(held_out), "--adam.lr", "0.001"), *more,
    ]  # fmt: skip


def both(inputs, name, loss, *more):
    """A run with the reference and one without, which find no numbers of each other's."""
    argv = flags_of(inputs, loss, *more)
    return {f"{name}@whole": argv, f"{name}@stored": [*argv, FIRST]}


@pytest.fixture(scope="session")
def one(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference-first")
    runs = {}
    for loss in POSSIBLE:
        runs |= both(inputs, loss, loss)
    for mode, more in MODES.items():
        runs |= both(inputs, mode, "dpo", *more)
    other = ["--ref.model_name_or_path", str(inputs.model("gpt2"))]
    runs |= both(inputs, "gpt2", "dpo", *other)
    runs["dpo@again"] = runs["dpo@stored"]
    runs["dpo@ipo"] = [*flags_of(inputs, "ipo"), FIRST]
    runs["dpo@bf16"] = [*runs["dpo@stored"], "--ds.param_dtype", "bf16"]
    runs["dpo@gpt2"] = [*runs["dpo@stored"], *other]
    runs["dpo@shorter"] = [*runs["dpo@stored"], "--data.max_len", "24"]
    for loss in WITHOUT:
        runs |= both(inputs, loss, loss, "--model.beta", "2.0")
    saved = ["--train.max_epochs", "2", "--ckpt.save_steps", "2", "--ckpt.path"]
    for kind, more in {"whole": [], "stored": [FIRST]}.items():
        runs[f"saved@{kind}"] = [*flags_of(inputs, "dpo"), *saved, str(folder / f"saved@{kind}/steps"), *more]
    return run_many(folder, runs, worker=WORKER, timeout=580)


@pytest.fixture(scope="session")
def two(inputs, tmp_path_factory):
    runs = {}
    for stage in ("2", "3"):
        runs |= both(inputs, stage, "dpo", "--ds.zero_stage", stage, "--train.micro_batch_size", "2")
    runs["2@again"] = runs["2@stored"]
    return run_many(tmp_path_factory.mktemp("first-two"), runs, processes=2, worker=WORKER)


def same(left, right):
    """Losses and policy to 1e-6, evaluations to 1e-5."""
    for run in (left, right):
        assert run.code == 0, run.err[-3000:]
    assert len(right.losses()) == len(left.losses()) > 1
    assert right.losses() == pytest.approx(left.losses(), abs=1e-6)
    rows = [run.lines("eval") for run in (left, right)]
    assert len(rows[0]) == len(rows[1]) > 0
    for before, after in zip(*rows):
        for name in ("loss", "margin"):
            assert after[name] == pytest.approx(before[name], abs=1e-5), name
    one, other = (load_file(run.folder / "model.safetensors") for run in (left, right))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [*POSSIBLE, *(mode for mode in MODES if mode != "lora"), "gpt2"])
def test_the_numbers_of_a_run_with_a_reference(name, one):
    assert {"dpo", "ipo", "cdpo", "dpop"} <= set(POSSIBLE)
    same(one[f"{name}@whole"], one[f"{name}@stored"])
    assert "models in memory: 2\n" in one[f"{name}@whole"].out
    assert "models in memory: 1\n" in one[f"{name}@stored"].out
    assert one[f"{name}@stored"].out.count("a model was built") == 2


def test_with_an_adapter(one):
    whole, stored = one["lora@whole"], one["lora@stored"]
    assert stored.losses() == pytest.approx(whole.losses(), abs=1e-6)
    assert "models in memory: 1\n" in stored.out


def test_a_loss_without_a_reference_builds_none(one):
    assert "simpo" in WITHOUT
    for name in WITHOUT:
        same(one[f"{name}@whole"], one[f"{name}@stored"])
        assert one[f"{name}@stored"].out.count("a model was built") == 1
        assert "log-probabilities of the reference" not in one[f"{name}@stored"].out


def test_what_is_kept_is_computed_once(one):
    first, again = one["dpo@stored"], one["dpo@again"]
    assert first.out.count("pairs: computed, kept in") == 2
    assert again.out.count("pairs: as computed before") == one["dpo@ipo"].out.count("as computed before") == 2
    assert again.out.count("a model was built") == 1
    assert again.losses() == first.losses()


@pytest.mark.parametrize("other", ["bf16", "gpt2", "shorter"])
def test_numbers_of_another_model_or_other_data_are_not_taken(other, one):
    run = one[f"dpo@{other}"]
    assert run.code == 0, run.err[-2000:]
    assert "pairs: computed, kept in" in run.out
    assert "as computed before" not in run.out


@pytest.mark.parametrize("stage", ["2", "3"])
def test_two_processes(stage, two):
    same(two[f"{stage}@whole"], two[f"{stage}@stored"])
    assert "models in memory: 1\n" in two[f"{stage}@stored"].out


def test_two_processes_read_what_one_of_them_finds(two):
    assert two["2@again"].out.count("as computed before") == 2
    assert two["2@again"].losses() == two["2@stored"].losses()


@pytest.mark.parametrize("emptied", [False, True], ids=["cache", "no-cache"])
def test_a_resumed_run_gives_the_same_numbers(emptied, one, inputs, tmp_path):
    whole, stored = one["saved@whole"], one["saved@stored"]
    same(whole, stored)
    target = tmp_path / "saved@stored"
    shutil.copytree(stored.folder, target)
    for name in ("model.safetensors", "metrics.jsonl"):
        (target / name).unlink()
    shutil.rmtree(target / "steps/global_step6")
    if not emptied:
        shutil.copytree(stored.folder.parent / "caches", tmp_path / "caches")
    argv = [*flags_of(inputs, "dpo"), "--train.max_epochs", "2", "--ckpt.save_steps", "2"]
    argv += ["--ckpt.path", str(target / "steps"), "--resume", FIRST]
    run = run_many(tmp_path, {"saved@stored": argv}, worker=WORKER)["saved@stored"]
    assert run.code == 0, run.err[-2000:]
    assert run.out.count("a model was built") == (2 if emptied else 1)
    assert run.losses() == pytest.approx(whole.losses()[4:], abs=1e-6)
    policies = [load_file(folder / "model.safetensors") for folder in (run.folder, stored.folder)]
    for name, value in policies[1].items():
        torch.testing.assert_close(policies[0][name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", [name for name, needs in NEEDS.items() if not reference_logps.possible(needs)]
)
def test_a_loss_that_reads_more_is_refused_in_one_line(name, inputs, tmp_path, capsys):
    argv = [*flags_of(inputs, name), FIRST, "--ckpt.output_dir", str(tmp_path / "out")]
    assert train_dpo.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --ref.precompute: got True, expected False with --loss {name}: it reads")
    assert not (tmp_path / "out").exists()


def test_upstreams_own_loss_is_refused(inputs):
    with pytest.raises(UserError, match=r"--ref\.precompute: got upstream's own loss, expected --loss NAME"):
        preflight.check(flags.parse([*inputs.flags(), FIRST]), 1)


def test_a_reference_that_gives_no_number_stops_before_the_training(inputs, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(inputs.model(), broken)
    from safetensors.torch import save_file

    state = load_file(broken / "model.safetensors")
    state["model.norm.weight"][0] = float("nan")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    argv = [*flags_of(inputs, "dpo"), FIRST, "--ref.model_name_or_path", str(broken)]
    run = run_many(tmp_path, {"broken@stored": argv}, worker=WORKER)["broken@stored"]
    assert run.code == 2
    (line,) = [line for line in run.err.splitlines() if line.startswith("error:")]
    assert "gives row 0 of the data a log-probability that is not finite (24 such pairs)" in line
    assert not list((tmp_path / "caches").rglob("reference-*"))
