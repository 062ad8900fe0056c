"""TRL's DPO trainer with a registered loss: forward, loss and logging are ours, the loop is upstream's."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import AutoConfig, TrainerCallback
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from sparsepo_plugin import metrics, registry
from sparsepo_plugin.adapters.trl import reference, refusals
from sparsepo_plugin.adapters.trl.arguments import build_options
from sparsepo_plugin.adapters.trl.mask_training import MaskTraining, refuse_sharding
from sparsepo_plugin.adapters.trl.pair_log import EvaluationPairs, PairLog, require_finite
from sparsepo_plugin.adapters.trl.reference import ReferenceOutput
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.runner import ForwardRunner, ModelOutput, statistics
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow, response_window
from sparsepo_plugin.types import LossOutput, Masks, ReferenceState, TokenStats

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
        learned = self.preference_objective.needs.hidden_states
        custom = options.get("optimizer_cls_and_kwargs") or next(iter(options.get("optimizers", ())), None)
        if learned:
            refusals.check_optimizer(args, custom)
        super().__init__(model, ref_model, args, *rest, **options)
        refuse_sharding(self.accelerator.distributed_type)
        if not self.preference_objective.needs.reference:
            self.ref_model = None
        self.mask_training = MaskTraining(self.preference_objective, args.seed, self.accelerator.device)
        judge = self.model if self.ref_model is None else self.accelerator.unwrap_model(self.ref_model)
        self._reference_sites = reference.recording_sites(judge, self.preference_objective.needs.activations)
        self._readers = self._build_readers(judge)
        self._pair_log = PairLog(Path(args.output_dir), active=self.is_world_process_zero())
        self._evaluation_pairs = EvaluationPairs(
            self.preference_objective.options.record,
            self.processing_class,
            args.process_index,
            args.world_size,
            args.eval_batch_size,
        )
        self.add_callback(_Start(self))

    def _build_readers(self, judge: Any) -> dict[str, ForwardRunner]:
        """Readers of the policy, of the policy where all its logits are wanted, of the reference."""
        # DistributedDataParallel must see every parameter in the graph of the model's own output.
        alone = self.accelerator.distributed_type == DistributedType.NO
        mode, policy = "auto" if alone else "rows", self.accelerator.unwrap_model(self.model)
        say = self.accelerator.print
        return {
            "policy": ForwardRunner(policy, mode=mode, say=say),
            "all": ForwardRunner(policy, mode="off"),
            "reference": ForwardRunner(
                judge, mode="auto", states=self.preference_objective.needs.hidden_states, say=say
            ),
        }

    # ---------------------------------------------------------------- loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        training = self.model.training
        ids, kept = inputs["input_ids"], ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
        labels = ids.masked_fill(inputs["completion_mask"] == 0, IGNORE_INDEX)
        passed = {name: value for name, value in inputs.items() if name not in kept} | {"use_cache": False}
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        window = response_window(ids, labels)
        kept_outputs: list[Any] = []

        def call(**asked: Any) -> Any:
            kept_outputs[:] = [model(**passed, **router, **asked)]
            return kept_outputs[0]

        reading = self._readers["all" if return_outputs else "policy"].read(call, window)
        (outputs,) = kept_outputs
        judged = self._run_reference(passed, window) if self.preference_objective.needs.reference else None
        self.mask_training.module.train(training)
        # The loss is computed in float32 whatever the models ran in; autocast would undo that.
        with torch.autocast(ids.device.type, enabled=False):
            stats, masks, output = self._preference(reading, judged)
        loss = output.losses.mean()
        self._collect_metrics(training, ids, window, inputs["attention_mask"].sum(), stats, masks, output)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss

    def _preference(
        self, reading: ModelOutput, judged: ReferenceOutput | None
    ) -> tuple[TokenStats, Masks, LossOutput]:
        """Statistics, masks and loss of a batch."""
        stats = statistics(
            reading,
            None if judged is None else judged.reading,
            with_kl=self.preference_objective.needs.token_kl,
        )
        hidden, activations = (
            ((), {}) if judged is None else (judged.reading.hidden_states, judged.activations)
        )
        state = ReferenceState(hidden, stats.response_mask, reading.window.token_ids, activations)
        masks = self.mask_training.module(state)
        return stats, masks, self.preference_objective.evaluate(stats, masks, self.beta)

    def _run_reference(self, passed: dict[str, Any], window: ResponseWindow) -> ReferenceOutput:
        """Run the reference: a model of its own, or the policy's with its adapter off."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            checkpointing = self.args.gradient_checkpointing_kwargs
            stack.enter_context(disable_gradient_checkpointing(self.model, checkpointing))
            if self.ref_model is None:
                judge = self.accelerator.unwrap_model(self.model)
                name = "ref" if "ref" in judge.peft_config else None
                stack.enter_context(use_adapter(judge, adapter_name=name))
            else:
                judge = self.accelerator.unwrap_model(self.ref_model)
            return reference.run(judge, passed, self._readers["reference"], window, self._reference_sites)

    def _collect_metrics(
        self,
        training: bool,
        ids: Tensor,
        window: ResponseWindow,
        tokens: Tensor,
        stats: TokenStats,
        masks: Masks,
        output: LossOutput,
    ) -> None:
        """Add a batch to the metrics, every pair once, and stop where a loss is not finite."""
        pairs, device = len(output.losses), output.losses.device
        finite = bool(torch.isfinite(output.losses.detach()).all())
        if training:
            found = metrics.pair_metrics(stats, masks, output, self.beta)
        else:
            indices = self._evaluation_pairs.next(pairs)
            keep = self._evaluation_pairs.keep(indices, device)
            rows = torch.cat([keep, keep])
            kept = LossOutput(*(value[keep] for value in output))
            found = metrics.pair_metrics(stats.rows(rows), masks.rows(rows), kept, self.beta)
            self._evaluation_pairs.add(indices, window, ids, stats, masks)
        split = "train" if training else "eval"
        finite = self._pair_log.add(split, found, tokens, finite=finite, device=device)
        require_finite(finite, training=training, step=self.state.global_step)

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
        split = "train" if self.model.training else "eval"
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
    judge = policy if ref_model is None else _config(ref_model, args)
    sizes = policy.get_text_config().vocab_size, judge.get_text_config().vocab_size
    if sizes[0] != sizes[1]:
        raise UserError(
            f"policy and reference have different vocabularies: got {sizes[0]} and {sizes[1]} tokens, "
            f"expected the same; use a reference of the policy's family"
        )
    if hasattr(policy, "vision_config"):
        raise UserError("got a vision-language model, expected a causal language model")
    return ConfiguredLoss(loss, options, reference_shape(judge))


def _config(model: Any, args: Any) -> Any:
    """The transformers configuration of a model or of what a name stands for."""
    if not isinstance(model, str):
        return model.config
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=getattr(args, "trust_remote_code", False))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {model}: cannot be loaded: {' '.join(str(error).split())[:200]}") from None
