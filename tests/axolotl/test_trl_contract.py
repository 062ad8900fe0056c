"""Names of TRL, transformers and accelerate that the adapter relies on: a new version fails here, by name."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

import pytest
import transformers
import trl
from transformers import Trainer
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer

from sparsepo_plugin.adapters.trl.mask_hooks import MaskHooks
from sparsepo_plugin.adapters.trl.trainer import PreferenceMixin

OVERRIDDEN = {
    "__init__", "_compute_loss", "create_optimizer", "training_step", "_clip_grad_norm", "save_model",
    "_save_optimizer_and_scheduler", "_load_optimizer_and_scheduler", "_load_best_model",
    "log", "evaluation_loop", "_prepare_dataset", "_set_signature_columns_if_needed",
    "_precompute_ref_logps", "compute_ref_log_probs", "train",
}  # fmt: skip


def source(value):
    return re.sub(r"\s+", " ", inspect.getsource(value))


def test_the_versions_are_ones_everything_here_was_run_with():
    found = (version("transformers"), trl.__version__)
    assert found in (("5.16.1", "1.9.0"), ("5.16.1", "1.16.0"), ("5.20.1", "1.14.1"))


def test_we_override_what_we_mean_to_and_nothing_else():
    both = {**vars(MaskHooks), **vars(PreferenceMixin)}
    ours = {name for name in both if not name.startswith("__") or name == "__init__"}
    assert {name for name in ours if hasattr(DPOTrainer, name)} == OVERRIDDEN


def test_our_attributes_are_not_upstreams():
    own = {"preference_objective", "mask_training", "_preference_step", "_pair_log", "_evaluation_pairs"}
    own |= {"_spread", "_rate_share", "_precomputed_width", "_precomputing", "moments"}
    text = source(DPOTrainer) + source(Trainer)
    assert not [name for name in own if re.search(rf"self\.{name}\b", text) or hasattr(DPOTrainer, name)]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (DPOTrainer._compute_loss, ["model", "inputs", "return_outputs"]),
        (DPOTrainer.log, ["logs", "start_time"]),
        (DPOTrainer._prepare_dataset, ["dataset", "processing_class", "args", "dataset_name"]),
        (DPOTrainer._precompute_ref_logps, ["dataset", "name", "batch_size"]),
        (DPOTrainer.compute_ref_log_probs, ["model", "inputs"]),
        (Trainer._clip_grad_norm, ["model"]),
        (Trainer.save_model, ["output_dir", "_internal_call"]),
        (Trainer._save_optimizer_and_scheduler, ["output_dir"]),
        (Trainer._load_optimizer_and_scheduler, ["checkpoint"]),
        (Trainer._load_best_model, []),
        (Trainer.create_optimizer, ["model"]),
        (Trainer.training_step, ["model", "inputs", "num_items_in_batch"]),
        (dpo_trainer.use_adapter, ["model", "adapter_name"]),
        (dpo_trainer.disable_gradient_checkpointing, ["model", "gradient_checkpointing_kwargs"]),
    ],
)
def test_signature(function, parameters):
    assert [name for name in inspect.signature(function).parameters if name != "self"] == parameters


def test_the_first_arguments_of_the_trainer():
    assert list(inspect.signature(DPOTrainer.__init__).parameters)[1:4] == ["model", "ref_model", "args"]


@pytest.mark.parametrize(
    ("where", "pieces"),
    [
        (
            Trainer._run_epoch,
            [
                "if self.args.max_grad_norm > 0: grad_norm = self._clip_grad_norm(model)",
                "self.optimizer.step() self.control = self.callback_handler.on_optimizer_step",
                "model.zero_grad()",  # not the optimizer's: the mask module's gradients would stay
                "self.accelerator.gradient_state._set_sync_gradients(do_sync_step)",
            ],
        ),
        (
            Trainer._clip_grad_norm,
            ["self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)"],
        ),
        (
            Trainer._save_checkpoint,
            [
                "self.save_model(output_dir, _internal_call=True)",
                "self._save_optimizer_and_scheduler(output_dir)",
            ],
        ),
        (Trainer._prepare_for_training, ["self._load_optimizer_and_scheduler(resume_from_checkpoint)"]),
        (
            Trainer.training_step,
            ['kwargs["scale_wrt_gas"] = False', "loss / self.current_gradient_accumulation_steps"],
        ),
        (DPOTrainer.compute_loss, ["self._compute_loss(model, inputs, return_outputs)"]),
        (
            DPOTrainer.log,
            ['mode = "train" if self.model.training else "eval"', "self._metrics[mode].clear()"],
        ),
        (
            DPOTrainer._compute_loss,
            ['"completion_mask", "ref_chosen_logps", "ref_rejected_logps"', "aux_loss_enabled"],
        ),
        (
            DPOTrainer.__init__,
            [
                'train_dataset = self._prepare_dataset(train_dataset, processing_class, args, "train")',
                "skip_prepare_dataset = self._is_vision_dataset",
            ],
        ),
        (
            DPOTrainer._precompute_ref_logps,
            [
                "dataset._fingerprint, model_hash",
                '"ref_chosen_logps": ref_chosen_logps[indices]',
                "self.accelerator.gather_for_metrics(",
            ],
        ),
        (DPOTrainer.__init__, ["self.beta = args.beta", "self.model_accepts_loss_kwargs = False"]),
    ],
)
def test_source(where, pieces):
    text = source(where)
    for piece in pieces:
        if piece == "self.model_accepts_loss_kwargs = False" and trl.__version__ != "1.9.0":
            continue  # a class attribute says so from 1.16 on
        assert piece in text, piece


def test_defaults_that_refusals_compare_with():
    fields = DPOConfig.__dataclass_fields__
    wanted = {
        "use_liger_kernel": False,
        "padding_free": False, "loss_weights": None, "ld_alpha": None, "use_weighting": False,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
    }  # fmt: skip
    assert {name: fields[name].default for name in wanted} == wanted
    assert fields["loss_type"].default_factory() == ["sigmoid"]


def test_preference_losses_are_given_chosen_rows_first_and_right_padded():
    collate = dpo_trainer.DataCollatorForPreference(pad_token_id=0)
    rows = [{"prompt_ids": [5], "chosen_ids": [6, 7], "rejected_ids": [8]}]
    batch = collate(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 8, 0]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1], [0, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_accelerate_deals_whole_batches_in_turn():
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler, SequentialSampler

    batches = BatchSampler(SequentialSampler(range(7)), 2, False)
    dealt = [list(BatchSamplerShard(batches, num_processes=2, process_index=rank)) for rank in (0, 1)]
    assert dealt == [[[0, 1], [4, 5]], [[2, 3], [6, 0]]]
    assert transformers.__version__
