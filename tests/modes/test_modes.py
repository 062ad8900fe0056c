"""Every mode trains the mask module and leaves a checkpoint that plain Hugging Face code loads."""

from __future__ import annotations

import math

import mode_runs
import pytest
import torch
from mode_runs import BASES
from peft import PeftModel
from safetensors.torch import load_file
from training import SEED
from transformers import AutoModelForCausalLM

from sparsepo_plugin import checkpoint

pytestmark = pytest.mark.slow

SINGLE = sorted(mode_runs.single_modes(mode_runs.NOWHERE))
DOUBLE = sorted(mode_runs.double_modes())
MODES = [("one", key) for key in SINGLE] + [("two", key) for key in DOUBLE]


@pytest.fixture
def run(request, processes, key):
    runs = request.getfixturevalue("one_process" if processes == "one" else "two_processes")
    assert runs[key].code == 0, runs[key].err[-3000:]
    return runs[key]


def start_of(key, inputs):
    """Folder of the model that a mode starts from."""
    if "experts" in key:
        return inputs.root / "mixtral"
    return inputs.root / "wide" if "4-bit" in key else inputs.model()


def logits(model):
    with torch.no_grad():
        return model.float().eval()(torch.arange(5, 25)[None]).logits


@pytest.mark.parametrize(("processes", "key"), MODES)
def test_a_mode_takes_six_steps_and_learns(processes, key, run):
    lines = run.lines("train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05
    assert lines[-1]["chosen_sequence_kl"] > 0
    assert lines[1]["grad_norm"] > 0


@pytest.mark.parametrize(("processes", "key"), MODES)
def test_a_modes_mask_module_has_moved_and_lies_beside_the_checkpoint(processes, key, run):
    saved = checkpoint.load_masks(run.folder).module
    fresh = checkpoint.initial_masks(run.folder, SEED).state_dict()
    for name, value in saved.state_dict().items():
        moved = (value.float() - fresh[name].to(value.dtype).float()).abs().max()
        # Adam at a rate of 0.05 in at most six full steps, and a bfloat16's rounding.
        assert (0.02 if name.endswith(".weight") else 0) < moved < 0.05 * 6 + 0.02, name


@pytest.mark.parametrize(("processes", "key"), MODES)
def test_a_modes_checkpoint_is_a_plain_model_or_adapter(processes, key, run, inputs):
    start = AutoModelForCausalLM.from_pretrained(start_of(key, inputs))
    before = logits(start)
    if "lora" in key:
        model = PeftModel.from_pretrained(start, run.folder)
        names = [name for name, _ in model.named_parameters()]
        assert any("lora_B" in name for name in names)
        assert all(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)
    else:
        model, report = AutoModelForCausalLM.from_pretrained(run.folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        names = [name for name, _ in model.named_parameters()]
    assert not any("sparsepo" in name for name in names)
    after = logits(model)
    assert after.isfinite().all()
    assert (after - before).abs().max() > 1e-2
    assert not list(run.folder.glob(".*"))


def test_a_reference_that_ran_first_changes_no_number(one_process):
    base, run = (one_process[key] for key in (mode_runs.name(BASES["dpo"]), "reference-first"))
    assert run.code == 0, run.err[-3000:]
    assert run.losses() == pytest.approx(base.losses(), abs=1e-6)
    assert len(run.losses()) == 6


# Runs of each row differ in a mode that must change no number.
SAME = [
    ["zero-1", "adam-offload", "adam-offload-zero-3", "reference-offload-zero-3", "packed-zero-3",
     "reentrant", "reentrant-zero-3", "workers", "length-batches", "two:zero-1",
     "two:reference-offload-zero-3"],
    ["lora", "two:lora-zero-3"],
    ["muon", "two:muon"],
    ["experts", "experts-zero-3"],
    ["mapo-experts", "mapo-experts-zero-3"],
]  # fmt: skip


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_modes_that_change_no_number(names, one_process, two_processes):
    runs = {**one_process, **{f"two:{key}": run for key, run in two_processes.items()}}
    base, *others = (runs[key] for key in names)
    weights = "adapter_model.safetensors" if "lora" in names[0] else "model.safetensors"
    for key, run in zip(names[1:], others):
        assert run.losses() == pytest.approx(base.losses(), abs=1e-5), key
        files = [checkpoint.WEIGHTS] if "mapo" not in key else []
        if (run.folder / weights).is_file():  # upstream saves the adapter of ZeRO-3 in another format
            files.append(weights)
        for file in files:
            one, other = (load_file(folder / file) for folder in (base.folder, run.folder))
            assert set(one) == set(other)
            for name in one:
                # Six Adam steps of 0.05 take rounding of 1e-8 in a gradient near 1e-5 up to 5e-5 in a mask.
                torch.testing.assert_close(other[name], one[name], atol=5e-5, rtol=0, msg=f"{key} {name}")


@pytest.mark.parametrize("kind", ["terms", "packed"])
def test_upstreams_own_loss_and_ours_agree_with_auxiliary_loss_likelihood_and_packing(kind, one_process):
    upstream, ours = one_process[f"upstream-{kind}"], one_process[f"dpo-{kind}"]
    assert upstream.code == ours.code == 0, upstream.err[-2000:] + ours.err[-2000:]
    one, other = (load_file(run.folder / "model.safetensors") for run in (upstream, ours))
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=0)


def test_the_added_terms_change_the_training(one_process):
    without = one_process[mode_runs.name(BASES["dpo"])]
    assert one_process["dpo-packed"].losses()[1:] != pytest.approx(without.losses()[1:], abs=1e-4)
    likelihood, plain = one_process["likelihood"].losses(), one_process["zero-1"].losses()
    assert likelihood[1:] != pytest.approx(plain[1:], abs=1e-4)


def test_zero_3_evaluates_while_it_trains(one_process):
    run = one_process["packed-zero-3"]
    assert [line["step"] for line in run.lines("eval")] == [0, 3, 6]
    assert run.lines("eval")[-1]["loss"] != run.lines("eval")[0]["loss"]
