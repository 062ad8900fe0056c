"""TRL's trainer with registered losses: trains, does no more than asked, logs, saves, resumes."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import mask_folders
import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl_runs import SEED, SPARSE, Tiny, lines, losses

from sparsepo_plugin import checkpoint, registry
from sparsepo_plugin.adapters.step import PreferenceStep
from sparsepo_plugin.adapters.trl import SparsePOTrainer
from sparsepo_plugin.demo.language import vocabulary
from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny
from sparsepo_plugin.errors import RunFailedError, UserError
from sparsepo_plugin.forward import pair_statistics
from sparsepo_plugin.forward.statistics import slices
from sparsepo_plugin.run_folder import lock
from sparsepo_plugin.types import ReferenceState

# IPO's margin goes to 1 / (2 beta), which with 1 is less than a few steps move it.
BETAS = {"confpo": 2.0, "ipo": 0.1, "sepo": 2.0, "simpo": 2.0}
LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


def state_of(trainer):
    masks = trainer.mask_training.module.state_dict()
    return {name: value.clone() for name, value in {**trainer.model.state_dict(), **masks}.items()}


def assert_same(left, right, tolerance=1e-5):
    assert set(left) == set(right)
    for name, value in left.items():
        torch.testing.assert_close(
            right[name], value, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---------------------------------------------------------------- every loss


@pytest.mark.parametrize("name", registry.names())
def test_every_loss_trains_and_does_only_the_work_it_asks_for(name, tiny, tmp_path, monkeypatch):
    asked = {"reference": 0, "states": 0, "kl": 0, "sites": 0, "fused": 0, "logits": 0}
    run, kl = PreferenceStep.run_reference, slices.kl
    fused, from_logits = pair_statistics.fused_statistics, pair_statistics.statistics_at

    def counted_run(self, call, window):
        output = run(self, call, window)
        asked["reference"] += 1
        asked["states"] += bool(output.hidden_states)
        asked["sites"] += bool(output.activations)
        return output

    def counted_kl(*args):
        asked["kl"] += 1
        return kl(*args)

    def counted_fused(*args, **options):
        asked["fused"] += 1
        return fused(*args, **options)

    def counted_logits(*args, **options):
        asked["logits"] += 1
        return from_logits(*args, **options)

    monkeypatch.setattr(PreferenceStep, "run_reference", counted_run)
    monkeypatch.setattr(slices, "kl", counted_kl)
    monkeypatch.setattr(pair_statistics, "fused_statistics", counted_fused)
    monkeypatch.setattr(pair_statistics, "statistics_at", counted_logits)
    trainer = tiny.trainer(tmp_path, name, beta=BETAS.get(name, 1.0), max_steps=20)
    needs = trainer.preference_objective.needs
    trainer.train()
    assert asked["reference"] == (20 if needs.reference else 0)
    assert asked["states"] == (20 if needs.hidden_states else 0)
    assert bool(asked["kl"]) == needs.token_kl
    assert (asked["fused"], asked["logits"]) == (20, 0)
    assert asked["sites"] == (20 if needs.activations else 0)
    assert (trainer.ref_model is None) == (not needs.reference)
    found = losses(tmp_path)
    assert len(found) == 20
    assert sum(found[-3:]) < sum(found[:3])
    trainer.save_model(str(tmp_path))
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (tmp_path / checkpoint.WEIGHTS).exists() == needs.hidden_states


# ---------------------------------------------------------------- files and metrics


def test_a_run_leaves_policy_mask_module_metrics_and_record(tiny, tmp_path):
    trainer = tiny.trainer(
        tmp_path, options={**SPARSE, "record": 3}, evaluate=True, eval_strategy="steps", eval_steps=5
    )
    before = state_of(trainer)
    trainer.train()
    trainer.save_model(str(tmp_path))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert_same(dict(trainer.model.state_dict()), dict(plain.state_dict()), 0)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "mask" in name]
    saved = checkpoint.load_masks(tmp_path)
    state = ReferenceState(tuple(torch.randn(2, 5, 32) for _ in range(2)), torch.ones(2, 4, dtype=torch.bool))
    trainer.mask_training.module.eval()
    assert torch.equal(saved.module(state).reward_mask, trainer.mask_training.module(state).reward_mask)
    assert saved.options.masks == "independent"
    moved = [name for name, value in state_of(trainer).items() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)
    run = json.loads((tmp_path / "sparsepo_run.json").read_text())
    assert (run["loss"], run["processes"]) == ("sparsepo", 1)
    assert {"trl", "transformers", "torch"} <= set(run["versions"])
    assert "preference_loss: sparsepo" in (tmp_path / "sparsepo_config.yaml").read_text()
    train, evaluated = lines(tmp_path, "train"), lines(tmp_path, "eval")
    assert [row["step"] for row in train] == list(range(1, 11))
    assert [row["step"] for row in evaluated] == [5, 10]
    # The first loss is ln 2 and both penalties, which count chosen and rejected response.
    penalty = 2 * (0.002 * train[0]["reward_mask_l1"] + 0.001 * train[0]["kl_mask_l1"])
    assert train[0]["loss"] == pytest.approx(math.log(2) + penalty, abs=1e-5)
    assert {"learning_rate", "grad_norm", "accuracy", "reward_mask_sparsity", "chosen_sequence_kl"} <= set(
        train[0]
    )
    # 7 pairs in batches of 4: an accuracy is a multiple of 1/14.
    assert evaluated[-1]["accuracy"] * 14 == pytest.approx(round(evaluated[-1]["accuracy"] * 14), abs=1e-9)
    records = [json.loads(line) for line in (tmp_path / "tokens.jsonl").read_text().splitlines()]
    assert [(row["pair"], row["side"]) for row in records] == [
        (n, s) for n in range(3) for s in ("chosen", "rejected")
    ]
    first = tiny.rows(1, skip=40)[0]
    assert records[0]["prompt"].split() == first["prompt"].split()
    assert records[0]["tokens"] == [*first["chosen"].split(), "<eos>"]
    assert len(records[0]["reward_mask"]) == len(records[0]["kl_mask"]) == len(records[0]["tokens"])


def test_five_lines_close_a_training(tiny, tmp_path, capsys):
    options = {**SPARSE, "record": 3}
    when = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "save_strategy": "steps"}
    trainer = tiny.trainer(tmp_path, options=options, evaluate=True, max_steps=4, save_steps=4, **when)
    trainer.train()
    *_, numbers, places, see, time, following = capsys.readouterr().out.splitlines()
    assert numbers.startswith("evaluation of 7 pairs, step 0 -> 4 (95 % intervals): accuracy 0.5 -> ")
    assert re.search(r"margin 0 -> -?[\d.e-]+ \[-?[\d.e-]+, [\d.e-]+\]", numbers)
    assert places == (
        f"policy: {tmp_path}, once trainer.save_model() has written it; "
        f"last checkpoint: {tmp_path}/checkpoint-4; metrics: {tmp_path}/metrics.jsonl; "
        f"tokens: {tmp_path}/tokens.jsonl"
    )
    assert (
        see == f"page: sparsepo report {tmp_path} -o {tmp_path}.html; "
        f"plots: sparsepo plot {tmp_path} -o {tmp_path}-plots"
    )
    assert re.fullmatch(r"time: \d+ s to step 4", time)
    assert following.startswith(f"next: eval-harness run --model {tmp_path} --baseline {tiny.model} ")


def test_nothing_held_out_and_no_step_saved_are_said(tiny, tmp_path, capsys):
    tiny.trainer(tmp_path, "dpo", max_steps=1).train()
    numbers, places, see, *_ = capsys.readouterr().out.splitlines()[-5:]
    assert numbers.startswith("not evaluated: no held-out pairs (eval_dataset and eval_strategy)")
    assert "last checkpoint" not in places
    assert '(without tokens: loss_options={"record": 200} and eval_dataset keep some)' in see


def test_trls_own_names_are_logged_for_the_same_numbers(tiny, tmp_path):
    trainer = tiny.trainer(tmp_path, "tdpo2", max_steps=3, logging_steps=3)
    trainer.train()
    logged = next(row for row in trainer.state.log_history if "loss" in row)
    (row,) = lines(tmp_path, "train")
    for name, ours in {
        "rewards/margins": "margin",
        "rewards/accuracies": "accuracy",
        "logps/chosen": "chosen_logps",
    }.items():
        assert logged[name] == row[ours]
    assert logged["loss"] == pytest.approx(row["loss"], abs=1e-5)
    assert logged["num_tokens"] > 0


def test_a_new_run_empties_the_metrics_of_an_older_one(tiny, tmp_path):
    for _ in range(2):
        tiny.trainer(tmp_path, "dpo", max_steps=2).train()
        assert len(losses(tmp_path)) == 2


def test_the_metrics_of_an_older_run_do_not_go_unsaid(tiny, tmp_path, capsys):
    tiny.trainer(tmp_path, "dpo", max_steps=2).train()
    assert "replaced" not in capsys.readouterr().out
    tiny.trainer(tmp_path, "dpo", max_steps=1).train()
    said = capsys.readouterr().out
    assert f"warning: {tmp_path}/metrics.jsonl of an earlier run is replaced, and its token record" in said


def test_an_adapter_of_an_earlier_run_is_not_applied_to_the_policy(tiny, tmp_path):
    """transformers does so with any adapter beside a whole model."""
    given = {"given": {"peft_config": LoraConfig(**LORA, init_lora_weights=False)}}
    trainer = tiny.trainer(tmp_path, "dpo", max_steps=1, **given)
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "adapter_config.json").is_file()
    trainer = tiny.trainer(tmp_path, "dpo", max_steps=1)
    trainer.train()
    trainer.save_model()
    ids = torch.tensor([[5, 6, 7, 8]])
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    torch.testing.assert_close(read(ids).logits, trainer.model(ids).logits)
    assert not list(tmp_path.glob("adapter*"))


def test_a_second_run_into_the_folder_is_refused(tiny, tmp_path):
    trainer = tiny.trainer(tmp_path, "dpo", max_steps=1)
    with lock.held([tmp_path]), pytest.raises(UserError, match="another run is writing there"):
        trainer.train()
    trainer.train()
    assert not (tmp_path / lock.LOCK).exists()


# ---------------------------------------------------------------- the mask module's gradients


def test_accumulation_of_two_is_one_batch_of_twice_the_size(tiny, tmp_path):
    # SGD, because Adam turns rounding noise of a tiny gradient into a step of full size.
    found = []
    for name, args in {
        "whole": {"per_device_train_batch_size": 4},
        "parts": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    }.items():
        trainer = tiny.trainer(tmp_path / name, options=SPARSE, optim="sgd", learning_rate=0.05, **args)
        trainer.train()
        found.append((losses(tmp_path / name), state_of(trainer)))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    assert_same(found[0][1], found[1][1])


def test_gradients_of_the_mask_module_do_not_pile_up(tiny, tmp_path):
    """The trainer zeroes the policy's gradients only: a bystander's would be summed over all steps."""
    seen = []

    class Watched(SparsePOTrainer):
        def training_step(self, *args, **options):
            loss = super().training_step(*args, **options)
            fresh = [p.grad.clone() for p in self.mask_training.parameters]
            for p in self.mask_training.parameters:
                p.grad = None
            with torch.enable_grad():
                self.compute_loss(self.model, args[1]).backward()
            seen.append(
                all(
                    torch.allclose(a, p.grad, atol=1e-6) for a, p in zip(fresh, self.mask_training.parameters)
                )
            )
            return loss

    tiny.trainer(tmp_path, options=SPARSE, trainer=Watched, max_steps=4).train()
    assert seen == [True] * 4


def test_policy_and_mask_module_are_clipped_by_their_common_norm(tiny, tmp_path):
    trainer = tiny.trainer(tmp_path, options=SPARSE, max_steps=1, max_grad_norm=0.01, optim="sgd")
    norms = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *_, **__):
            every = [*trainer.model.parameters(), *trainer.mask_training.parameters]
            own = torch.cat([p.grad.flatten() for p in trainer.mask_training.parameters]).norm()
            norms.append((torch.cat([p.grad.flatten() for p in every]).norm().item(), own.item()))

    trainer.add_callback(Watch())
    trainer.train()
    assert norms[0][0] == pytest.approx(0.01, rel=1e-3)
    assert norms[0][1] > 0


def test_the_mask_module_has_its_own_rate_and_decay_and_follows_the_schedule(tiny, tmp_path):
    options = {**SPARSE, "mask_weight_decay": 0.05}
    trainer = tiny.trainer(tmp_path, options=options, lr_scheduler_type="linear", max_steps=4)
    trainer.train()
    own = {id(p) for p in trainer.mask_training.parameters}
    groups = [g for g in trainer.optimizer.param_groups if {id(p) for p in g["params"]} & own]
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    assert {g["initial_lr"] for g in groups} == {0.02}
    assert sum(len(g["params"]) for g in groups) == len(own)
    assert all(g["lr"] == pytest.approx(0.0, abs=1e-9) for g in groups)


@pytest.mark.parametrize(
    "optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "rmsprop", "adagrad", "adamw_bnb_8bit"]
)
def test_every_kind_of_optimizer_moves_the_mask_module(tiny, tmp_path, optim):
    trainer = tiny.trainer(tmp_path, options=SPARSE, max_steps=2, optim=optim)
    before = state_of(trainer)
    trainer.train()
    own = optim in ("rmsprop", "adagrad", "adamw_bnb_8bit")
    assert (trainer.mask_training.optimizer is not None) == own
    after = state_of(trainer)
    for name in trainer.mask_training.module.state_dict():
        assert not torch.equal(before[name], after[name]), name


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("optim", ["adamw_torch", "rmsprop"])
def test_a_resumed_run_ends_where_the_whole_one_does(tiny, tmp_path, optim):
    saved = {
        "save_strategy": "steps", "save_steps": 4, "options": {**SPARSE, "dropout": 0.1}, "optim": optim,
        "lr_scheduler_type": "linear", "learning_rate": 1e-3,
    }  # fmt: skip
    whole = tiny.trainer(tmp_path, **saved)
    whole.train()
    folder = tmp_path / "checkpoint-4"
    assert checkpoint.load_masks(folder).options.dropout == 0.1
    resumed = tiny.trainer(tmp_path / "resumed", **saved)
    resumed.train(resume_from_checkpoint=str(folder))
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path)[4:], abs=1e-6)
    assert_same(state_of(whole), state_of(resumed), 1e-6)
    assert json.loads((tmp_path / "resumed/sparsepo_run.json").read_text())["loss"] == "sparsepo"


@pytest.mark.parametrize("options", [SPARSE, {"source": "random"}])
def test_a_run_of_an_earlier_version_goes_on_without_the_anchor_that_is_the_default_now(
    tiny, tmp_path, options, capfd
):
    saved = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = tiny.trainer(tmp_path, options={**options, "anchor": 0.0}, **saved)
    whole.train()
    resumed = tiny.trainer(tmp_path / "resumed", options=options, **saved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "sparsepo: anchor stays 0.0, as this run was begun by an earlier version" in capfd.readouterr().out
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path)[2:], abs=1e-6)
    run = json.loads((tmp_path / "resumed/sparsepo_run.json").read_text())
    assert run["options"]["anchor"] == 0.0
    named = tiny.trainer(tmp_path / "named", options={**options, "anchor": 3.0}, **saved)
    named.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(tmp_path / "named")[0] > losses(tmp_path)[2]


def test_the_masks_own_optimizer_is_missed_in_one_line(tiny, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 2, "options": SPARSE, "max_steps": 4, "optim": "rmsprop"}
    tiny.trainer(tmp_path, **saved).train()
    folder = tmp_path / "checkpoint-2"
    file = folder / "sparsepo_mask_optimizer.pt"
    for content, words in (
        (b"damaged", "cannot be read as the mask module's optimizer"),
        (None, "no such file"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            tiny.trainer(tmp_path / "resumed", **saved).train(resume_from_checkpoint=str(folder))
        assert "\n" not in str(error.value)


def test_an_own_optimizer_follows_the_policys_schedule(tiny, tmp_path):
    trainer = tiny.trainer(
        tmp_path, options=SPARSE, optim="rmsprop", lr_scheduler_type="linear", max_steps=4, warmup_steps=2
    )
    rates = []

    class Watch(transformers.TrainerCallback):
        def on_optimizer_step(self, *_, **__):
            rates.append(trainer.mask_training.optimizer._optimizer.param_groups[0]["lr"])

    trainer.add_callback(Watch())
    trainer.train()
    assert rates == pytest.approx([0.0, 0.01, 0.02, 0.01])


def test_a_learning_rate_of_0_leaves_nothing_to_follow(tiny, tmp_path):
    trainer = tiny.trainer(tmp_path, options=SPARSE, optim="rmsprop", learning_rate=0.0)
    with pytest.raises(UserError, match=r"^learning_rate: got 0.0, expected a number > 0"):
        trainer.train()


def test_a_synchronised_reference_is_honoured_without_a_mask_module(tiny, tmp_path):
    args = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0, "max_steps": 3}
    trainer = tiny.trainer(tmp_path, "dpo", save_strategy="steps", save_steps=3, **args)
    trainer.train()
    fixed = tiny.trainer(tmp_path / "fixed", "dpo", max_steps=3)
    fixed.train()
    assert losses(tmp_path)[:2] == losses(tmp_path / "fixed")[:2]
    assert losses(tmp_path)[2] == pytest.approx(0.693147, abs=1e-5)  # the reference is the policy again
    with pytest.raises(UserError, match="sync_ref_model: got True in a resumed run"):
        tiny.trainer(tmp_path, "dpo", **args).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_base_in_4_bits(tiny, tmp_path):
    """QLoRA: the reference is the quantised base with the adapter off."""
    bits = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny.model, quantization_config=bits, dtype="float32"
    )
    assert any(type(parameter).__name__ == "Params4bit" for parameter in model.parameters())
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    options = {"masks": "independent", "normalise": "none", "mask_lr": 0.02}
    trainer = tiny.trainer(
        tmp_path,
        options=options,
        max_steps=8,
        learning_rate=0.02,
        given={"model": model, "peft_config": lora},
    )
    before = state_of(trainer)
    trainer.train()
    found = losses(tmp_path)
    assert found[0] == pytest.approx(0.693147, abs=1e-4)
    assert min(found[4:]) < 0.6
    name = next(iter(trainer.mask_training.module.state_dict()))
    assert not torch.equal(before[name], state_of(trainer)[name])


def test_the_best_checkpoint_brings_its_mask_module_back(tiny, tmp_path):
    trainer = tiny.trainer(
        tmp_path, options=SPARSE, evaluate=True, max_steps=4, eval_strategy="steps", eval_steps=2,
        save_strategy="steps", save_steps=2, load_best_model_at_end=True, learning_rate=0.01,
        metric_for_best_model="eval_accuracy", greater_is_better=False,
    )  # fmt: skip
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/{checkpoint.WEIGHTS}")
    assert_same(best, trainer.mask_training.module.state_dict(), 0)


def test_a_checkpoint_of_other_masks_is_refused_in_one_line(tiny, tmp_path):
    tiny.trainer(tmp_path, options=SPARSE, max_steps=2, save_strategy="steps", save_steps=2).train()
    folder = str(tmp_path / "checkpoint-2")
    other = tiny.trainer(tmp_path / "other", options={"masks": "common"})
    with pytest.raises(
        UserError, match=r"option masks: got 'common', expected 'independent', as in the checkpoint"
    ):
        other.train(resume_from_checkpoint=folder)
    relaxed = tiny.trainer(tmp_path / "relaxed", options={**SPARSE, "reward_l1": 0.5}, max_steps=3)
    relaxed.train(resume_from_checkpoint=folder)
    assert len(losses(tmp_path / "relaxed")) == 1
    tiny.trainer(tmp_path / "dpo", "dpo", max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(UserError, match="no mask module in"):
        other.train(resume_from_checkpoint=str(tmp_path / "dpo/checkpoint-2"))


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize("name", ["sparsepo", "mapo"])
def test_peft_with_gradient_checkpointing_trains_adapter_and_masks(tiny, tmp_path, name):
    options = SPARSE if name == "sparsepo" else {}
    trainer = tiny.trainer(
        tmp_path, name, options, given={"peft_config": LoraConfig(**LORA)}, gradient_checkpointing=True,
        learning_rate=0.02, save_strategy="steps", save_steps=5,
    )  # fmt: skip
    assert trainer.ref_model is None
    base = {n: p.clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    found = losses(tmp_path)
    assert sum(found[-3:]) < sum(found[:3])
    assert_same(base, {n: p for n, p in trainer.model.named_parameters() if n in base}, 0)
    folder = tmp_path / "checkpoint-5"
    assert (folder / "adapter_model.safetensors").exists()
    assert (folder / checkpoint.WEIGHTS).exists() == (name == "sparsepo")


def test_peft_and_a_reference_of_its_own_give_the_same_first_step(tiny, tmp_path):
    """With the adapter off the policy's base is the reference: masks and statistics cannot differ."""
    for name in ("mapo", "sparsepo"):
        for kind in ("base", "own"):
            given = {"peft_config": LoraConfig(**LORA)}
            if kind == "own":
                given["ref_model"] = AutoModelForCausalLM.from_pretrained(tiny.model, dtype="float32")
            tiny.trainer(tmp_path / kind, name, given=given, max_steps=3, learning_rate=0.01).train()
        assert losses(tmp_path / "base") == pytest.approx(losses(tmp_path / "own"), abs=1e-6)


def test_gradient_checkpointing_changes_nothing(tiny, tmp_path):
    for name in ("sparsepo", "mapo"):
        for kind in (True, False):
            tiny.trainer(tmp_path / str(kind), name, max_steps=3, gradient_checkpointing=kind).train()
        assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), abs=1e-6)


def test_bfloat16_autocast_leaves_loss_and_masks_in_float32(tiny, tmp_path, monkeypatch):
    trainer = tiny.trainer(tmp_path, options=SPARSE, bf16=True, max_steps=2)
    seen, function = [], trainer.preference_objective.loss.function

    def spy(stats, masks, *rest):
        seen.append((stats.token_kl.dtype, masks.reward_mask.dtype))
        return function(stats, masks, *rest)

    loss = trainer.preference_objective.loss._replace(function=spy)
    trainer._preference_step.objective = dataclasses.replace(trainer.preference_objective, loss=loss)
    trainer.train()
    assert set(seen) == {(torch.float32, torch.float32)}
    assert {p.dtype for p in trainer.mask_training.parameters} == {torch.float32}


def test_a_run_whose_loss_is_not_finite_stops_in_one_line(tiny, tmp_path):
    trainer = tiny.trainer(tmp_path, options=SPARSE)
    with torch.no_grad():
        next(trainer.model.parameters())[:] = float("nan")
    with pytest.raises(
        RunFailedError, match="loss is not finite in training at step 1: stopped before the update"
    ):
        trainer.train()


def test_the_module_starts_from_the_seed(tiny, tmp_path):
    first, again, other = (
        tiny.trainer(tmp_path, seed=seed).mask_training.module.state_dict() for seed in (SEED, SEED, 4)
    )
    assert_same(first, again, 0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_mask_module_that_openrlhf_trained_goes_on_here(tiny, tmp_path):
    """One format: the folder was written in the other environment (tests/golden/mask_folders.py)."""
    folder = mask_folders.FOLDERS["openrlhf"]
    tokenizer = build_tokenizer(vocabulary())
    model = build_model(tokenizer, hidden_size=mask_folders.WIDTH, heads=2, layers=mask_folders.LAYERS)
    save_tiny(tmp_path / "model", model, tokenizer)
    trainer = Tiny(tmp_path).trainer(tmp_path / "out", options=mask_folders.OPTIONS, max_steps=2)
    trainer.mask_training.load(folder)
    saved = checkpoint.load_masks(folder).module.state_dict()
    for name, value in trainer.mask_training.module.state_dict().items():
        assert torch.equal(value, saved[name].float()), name
    trainer.train()
    trainer.save_model()
    assert checkpoint.load_masks(tmp_path / "out").options == checkpoint.load_masks(folder).options
