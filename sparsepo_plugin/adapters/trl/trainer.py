"""TRL's DPO trainer with a registered loss: forward, loss and logging are ours, the loop is upstream's."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accelerate.utils import DistributedType
from torch import Tensor
from transformers import TrainerCallback
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from sparsepo_plugin import registry
from sparsepo_plugin.adapters import dropout, model_checks
from sparsepo_plugin.adapters.step import PreferenceStep, StepResult, not_finite
from sparsepo_plugin.adapters.trl import refusals
from sparsepo_plugin.adapters.trl.arguments import build_options
from sparsepo_plugin.adapters.trl.mask_training import MaskTraining, refuse_sharding
from sparsepo_plugin.adapters.trl.pair_log import EvaluationPairs, PairLog
from sparsepo_plugin.adapters.trl.rows import prepare_rows
from sparsepo_plugin.adapters.trl.sites import recording_sites
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow, response_window
from sparsepo_plugin.types import Split

if TYPE_CHECKING:

    class _Upstream(DPOTrainer):
        """What stands behind the mixin in the bases."""
else:

    class _Upstream:
        """Nothing: upstream's trainer stands behind the mixin in the bases."""


class PreferenceMixin(_Upstream):
    """Runs a registered loss inside any TRL DPOTrainer of 1.9 or later; stands before it in the bases.

    Args:
      model: policy, as TRL takes it.
      ref_model: reference, or None for the policy's initial state.
      args: SparsePOConfig, or other arguments of TRL's with PreferenceArguments mixed in.
      options: TRL's other arguments.

    Raises:
      UserError: an argument, option or model that the loss cannot work with, before anything is done.
    """

    def __init__(
        self, model: Any, ref_model: Any = None, args: Any = None, *rest: Any, **options: Any
    ) -> None:
        if not hasattr(args, "preference_loss"):
            raise UserError(f"args: got {type(args).__name__}, expected a SparsePOConfig")
        refusals.check(args)
        self.preference_objective = _objective(model, ref_model, args)
        custom = options.get("optimizer_cls_and_kwargs") or next(iter(options.get("optimizers", ())), None)
        if self.preference_objective.options.learned:
            refusals.check_optimizer(args, custom)
        super().__init__(model, ref_model, args, *rest, **options)
        if args.disable_dropout:  # TRL's own looks at modules only, not at the rates that modules keep
            dropout.switch_off(self.accelerator.unwrap_model(self.model), configuration=False)
        refuse_sharding(self.accelerator.distributed_type)
        if not self.preference_objective.needs.reference:
            self.ref_model = None
        self.mask_training = MaskTraining(self.preference_objective, args.seed, self.accelerator.device)
        self._preference_step = self._build_step()
        self._pair_log = PairLog(Path(args.output_dir), active=self.is_world_process_zero())
        self._evaluation_pairs = EvaluationPairs(
            self.preference_objective.options.record,
            self.processing_class,
            args.process_index,
            args.world_size,
            args.eval_batch_size,
        )
        self.add_callback(_Start(self))

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Rows whose responses begin where tokens part; TRL's own where ours cannot be made."""
        found = prepare_rows(dataset, processing_class, args, dataset_name)
        if found is not None:
            return found
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _build_step(self) -> PreferenceStep:
        unwrap = self.accelerator.unwrap_model
        policy = unwrap(self.model)
        reference = policy if self.ref_model is None else unwrap(self.ref_model)
        # DistributedDataParallel must see every parameter in the graph of the model's own output.
        alone = self.accelerator.distributed_type == DistributedType.NO
        return PreferenceStep(
            self.preference_objective,
            policy,
            reference,
            self.mask_training.module,
            policy_mode="auto" if alone else "rows",
            sites=recording_sites(reference, self.preference_objective.needs.activations),
            warn=self.accelerator.print,
        )

    # ---------------------------------------------------------------- loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        training = self.model.training
        ids, kept = inputs["input_ids"], ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
        labels = ids.masked_fill(inputs["completion_mask"] == 0, IGNORE_INDEX)
        passed = {name: value for name, value in inputs.items() if name not in kept} | {"use_cache": False}
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        window = response_window(ids, labels)
        outputs: list[Any] = []

        def call(**asked: Any) -> Any:
            outputs[:] = [model(**passed, **router, **asked)]
            return outputs[0]

        step = self._preference_step
        policy = step.run_policy(call, window, all_logits=return_outputs)
        reference = self._run_reference(passed, window)
        self.mask_training.module.train(training)
        result = step.evaluate(policy, reference, self.beta, evaluating=not training)
        self._collect_metrics(result, ids, window, inputs["attention_mask"].sum(), training=training)
        loss = result.loss
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs[0].aux_loss
        return (loss, outputs[0]) if return_outputs else loss

    def _run_reference(self, passed: dict[str, Any], window: ResponseWindow) -> ModelOutput | None:
        """Run the reference, if the loss needs one: its own model, or the policy with its adapter off."""
        if not self.preference_objective.needs.reference:
            return None
        reference = self.accelerator.unwrap_model(self.model if self.ref_model is None else self.ref_model)
        checkpointing = self.args.gradient_checkpointing_kwargs
        with disable_gradient_checkpointing(self.model, checkpointing), ExitStack() as stack:
            if self.ref_model is None:
                name = "ref" if "ref" in reference.peft_config else None
                stack.enter_context(use_adapter(reference, adapter_name=name))
            return self._preference_step.run_reference(lambda **asked: reference(**passed, **asked), window)

    def _collect_metrics(
        self, result: StepResult, ids: Tensor, window: ResponseWindow, tokens: Tensor, *, training: bool
    ) -> None:
        """Add a batch to the metrics, every pair once, and stop where a loss is not finite."""
        split: Split = "train"
        keep = None
        if not training:
            split, indices = "eval", self._evaluation_pairs.next(len(result.output.losses))
            keep = self._evaluation_pairs.keep(indices)
            self._evaluation_pairs.add(indices, window, ids, result.stats, result.masks)
        sums = result.metrics(self.beta, keep)
        device = result.output.losses.device
        if not self._pair_log.add(split, sums, tokens, finite=result.finite(), device=device):
            raise not_finite(self.state.global_step + training, training=training)

    # ---------------------------------------------------------------- the mask module

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        """Upstream's optimizer, with the mask module's groups added."""
        made = super().create_optimizer(*args, **options)
        self.mask_training.add_to(self.optimizer, self.args.learning_rate)
        return made

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """Upstream's forward and backward; then the mask module's gradients are averaged over processes."""
        self.mask_training.before_backward()
        loss = super().training_step(*args, **options)
        self.mask_training.after_backward(step_follows=self.accelerator.sync_gradients)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip policy and mask module by their common norm, as where they are one model."""
        parameters = [*model.parameters(), *self.mask_training.parameters]
        return self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        self.mask_training.save(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.mask_training.load(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.mask_training.load(self.state.best_model_checkpoint)

    # ---------------------------------------------------------------- logging

    def start_pair_log(self) -> None:
        """Write what this run is; called when training begins."""
        record, step = self.preference_objective.record(), self.state.global_step
        self._pair_log.start(self.args, record, self.args.world_size, step=step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics since the last log, and write them to metrics.jsonl."""
        split: Split = "train" if self.model.training else "eval"
        for name, value in self._pair_log.write(split, self.state.global_step, logs).items():
            self._metrics[split][name] = [value]
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: Any, *args: Any, **options: Any) -> Any:
        """Upstream's evaluation; pairs are numbered as accelerate deals them, and recorded."""
        self._pair_log.forget("eval")
        data = dataloader.dataset
        self._evaluation_pairs.begin(len(data) if hasattr(data, "__len__") else sys.maxsize)
        output = super().evaluation_loop(dataloader, *args, **options)
        self._evaluation_pairs.finish(Path(self.args.output_dir), self.state.global_step)
        return output


class SparsePOTrainer(PreferenceMixin, DPOTrainer):
    """TRL's DPOTrainer for every registered loss; takes a SparsePOConfig."""

    _tag_names: ClassVar[list[str]] = ["trl", "dpo", "sparsepo"]


class _Start(TrainerCallback):
    """Tells the trainer when training begins: the step to go on from is known only then."""

    def __init__(self, trainer: PreferenceMixin) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the log."""
        self._trainer.start_pair_log()


def _objective(model: Any, ref_model: Any, args: Any) -> ConfiguredLoss:
    loss = registry.get(args.preference_loss)
    options = build_options(loss, args.loss_options)
    policy = _config(model, args)
    reference = policy if ref_model is None else _config(ref_model, args)
    model_checks.check_language_model(policy)
    model_checks.check_vocabularies(policy, reference)
    return ConfiguredLoss(loss, options, reference_shape(reference))


def _config(model: Any, args: Any) -> Any:
    """The transformers configuration of a model or of what a name stands for."""
    if not isinstance(model, str):
        return model.config
    return model_checks.load_config(f"model {model}", model, getattr(args, "trust_remote_code", False))
