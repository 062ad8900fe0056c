"""``axolotl train`` with the plugin, for real: trains, saves, resumes, refuses."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from axolotl_runs import axolotl_train, on_tiny_model, write
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl_runs import losses

from sparsepo_plugin import checkpoint
from sparsepo_plugin.types import ReferenceState

OPTIONS = {"masks": "independent", "normalise": "none", "mask_lr": 0.02, "dropout": 0.1, "reward_l1": 0.001}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run of 14 steps that saves after 7."""
    folder = tmp_path_factory.mktemp("axolotl")
    changes = {"max_steps": 14, "save_steps": 7, "sparsepo": OPTIONS}
    done = axolotl_train(
        write(folder, on_tiny_model("sparsepo-independent", tiny, folder / "out", **changes))
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert "SparsePO: preference_loss sparsepo, SparsePOOptions(" in done.stdout
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_five_lines_close_a_run_when_everything_is_saved(trained, tiny):
    """After Axolotl's own last word, in its own words, and each once."""
    said, out = (trained / "said.txt").read_text(), trained / "out"
    *_, numbers, places, see, time, following = said.splitlines()
    assert numbers.startswith("not evaluated: no held-out pairs (test_datasets or val_set_size)")
    assert places.startswith(f"policy: {out}; masks: {out}/sparsepo_masks.safetensors; metrics: {out}/")
    assert "(without tokens: sparsepo: {record: 200} and test_datasets keep some)" in see
    assert re.fullmatch(r"time: \d+ s to step 14", time)
    assert following.startswith(f"next: eval-harness run --model {out} --baseline {tiny.model} ")
    assert said.count("policy: ") == 1


def test_it_trains_and_the_loss_falls(trained):
    found = losses(trained / "out")
    assert len(found) == 14
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def test_the_model_is_a_plain_hugging_face_folder_with_the_mask_module_beside_it(trained, tiny):
    model, info = AutoModelForCausalLM.from_pretrained(trained / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before = AutoModelForCausalLM.from_pretrained(tiny.model).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    saved = checkpoint.load_masks(trained / "out")
    assert (saved.loss.name, saved.options.masks, saved.options.mask_lr) == ("sparsepo", "independent", 0.02)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    hidden = model(ids, output_hidden_states=True).hidden_states[1:]
    masks = saved.module(ReferenceState(hidden, torch.ones(2, 3, dtype=torch.bool)))
    assert torch.isfinite(masks.reward_mask).all()
    initial = checkpoint.initial_masks(trained / "out", 42).state_dict()
    assert all(not torch.equal(value, initial[name]) for name, value in saved.module.state_dict().items())
    last = load_file(trained / "out/checkpoint-14" / checkpoint.WEIGHTS)
    assert all(torch.equal(value, last[name]) for name, value in saved.module.state_dict().items())


def test_the_run_leaves_its_record(trained):
    run = json.loads((trained / "out/sparsepo_run.json").read_text())
    assert run["loss"] == "sparsepo"
    assert {"axolotl", "trl", "transformers"} <= set(run["versions"])
    arguments = yaml.safe_load((trained / "out/sparsepo_config.yaml").read_text())
    assert arguments["loss_options"] == OPTIONS
    assert arguments["preference_loss"] == "sparsepo"


def test_it_resumes_from_a_checkpoint_and_ends_where_the_whole_run_does(trained, tiny, tmp_path):
    changes = {"max_steps": 14, "save_steps": 7, "sparsepo": OPTIONS}
    changes["resume_from_checkpoint"] = str(trained / "out/checkpoint-7")
    done = axolotl_train(
        write(tmp_path, on_tiny_model("sparsepo-independent", tiny, tmp_path / "out", **changes))
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert losses(tmp_path / "out") == pytest.approx(losses(trained / "out")[7:], abs=1e-5)
    for file in ("model.safetensors", checkpoint.WEIGHTS):
        whole, resumed = (load_file(folder / "out" / file) for folder in (trained, tmp_path))
        for name, value in whole.items():
            torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0)


def test_a_lora_run_leaves_an_adapter_that_loads_and_the_mask_module(tiny, tmp_path):
    changes = {
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 0.02,
        "lora_r": 4,
        "gradient_checkpointing": True,
    }
    done = axolotl_train(write(tmp_path, on_tiny_model("sparsepo-lora", tiny, tmp_path / "out", **changes)))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert len(losses(tmp_path / "out")) == 4
    assert checkpoint.load_masks(tmp_path / "out/checkpoint-2").options.masks == "independent"
    ids, found = torch.tensor([[5, 6, 7, 8]]), []
    for folder in ("out/checkpoint-4", "out"):
        base = AutoModelForCausalLM.from_pretrained(tiny.model)
        before = base(ids).logits.detach()
        found.append(PeftModel.from_pretrained(base, tmp_path / folder)(ids).logits)
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], before)
    # Upstream's unmerged weights, which transformers would load as a model with random layers, are gone.
    assert not list((tmp_path / "out").glob("model*"))
    for name in (checkpoint.WEIGHTS, checkpoint.RECORD):
        assert (tmp_path / "out" / name).exists()


def test_a_bad_configuration_ends_the_program_in_one_line(tiny, tmp_path):
    content = on_tiny_model("sparsepo-independent", tiny, tmp_path / "out", sparsepo={"maks": "common"})
    done = axolotl_train(write(tmp_path, content))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: unknown option of sparsepo 'maks': did you mean masks")
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_the_datas_weights_reach_the_loss_and_data_without_them_are_refused(tiny, tmp_path):
    changes = {
        "preference_loss": "tisdpo", "simpo": None, "tisdpo": {"transform": "none"}, "max_steps": 3,
        "dataset_prepared_path": str(tmp_path / "prepared"),
    }  # fmt: skip
    content = on_tiny_model("simpo", tiny, tmp_path / "out", **changes)
    plain = axolotl_train(write(tmp_path, content))
    assert plain.returncode == 2
    assert "got no columns chosen_weights and rejected_weights" in plain.stderr + plain.stdout
    rows = tmp_path / "weighted.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.weighted_rows()))
    content["datasets"][0]["path"] = str(rows)
    done = axolotl_train(write(tmp_path, content))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    first = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    # Words weigh 1, a tenth, or 1 for want of a number: the mean lies between.
    assert 0.1 < first["reward_mask_mean"] < 0.99
