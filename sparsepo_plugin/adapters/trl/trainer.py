"""TRL's DPO trainer with a registered loss: forward, loss and logging are ours, the loop is upstream's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from sparsepo_plugin import registry
from sparsepo_plugin.adapters import dropout, model_checks, reference_logps
from sparsepo_plugin.adapters.pairs.weights import COLUMNS
from sparsepo_plugin.adapters.process_exit import leave_group_at_exit
from sparsepo_plugin.adapters.step import PreferenceStep, StepResult, not_finite
from sparsepo_plugin.adapters.trl import precomputed, refusals
from sparsepo_plugin.adapters.trl.arguments import build_options
from sparsepo_plugin.adapters.trl.mask_hooks import MaskHooks
from sparsepo_plugin.adapters.trl.mask_training import MaskTraining
from sparsepo_plugin.adapters.trl.moments import Moments, closing_lines
from sparsepo_plugin.adapters.trl.pair_log import EvaluationPairs, PairLog
from sparsepo_plugin.adapters.trl.rows import WEIGHTS, WeightsCollator, prepare_rows
from sparsepo_plugin.adapters.trl.sharding import spread_of
from sparsepo_plugin.adapters.trl.sites import recording_sites
from sparsepo_plugin.adapters.trl.versions import untested
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.runner import ForwardRunner, ModelOutput
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow, numbers_in, response_window
from sparsepo_plugin.run_folder import lock
from sparsepo_plugin.types import Split


class PreferenceMixin(MaskHooks):
    """Runs a registered loss inside any TRL DPOTrainer of 1.9 or later; stands before it in the bases.

    Args:
      model: policy, as TRL takes it.
      ref_model: reference, or None for the policy's initial state.
      args: SparsePOConfig, or other arguments of TRL's with PreferenceArguments mixed in.
      options: TRL's other arguments.

    Raises:
      UserError: an argument, option or model that the loss cannot work with, before anything is done.
    """

    _precomputing: ForwardRunner | None = None

    def __init__(
        self, model: Any, ref_model: Any = None, args: Any = None, *rest: Any, **options: Any
    ) -> None:
        if not hasattr(args, "preference_loss"):
            raise UserError(f"args: got {type(args).__name__}, expected a SparsePOConfig")
        refusals.check(args)
        refusals.check_output(args, [_name_of(model), _name_of(ref_model)])
        leave_group_at_exit()
        warning = untested("trl")
        self.preference_objective = _objective(model, ref_model, args)
        refusals.check_for(args, self.preference_objective)
        super().__init__(model, ref_model, args, *rest, **options)
        if self.preference_objective.needs.token_weights:
            self.data_collator: Any = WeightsCollator(self.data_collator)
        chosen = self.preference_objective.options
        for line in [*filter(None, [warning]), *chosen.lines(args.preference_loss, chosen)]:
            self.accelerator.print(line)
        if args.disable_dropout:  # TRL's own looks at modules only, not at the rates that modules keep
            dropout.switch_off(self.accelerator.unwrap_model(self.model), configuration=False)
        self._spread = spread_of(self.accelerator)
        if not self.preference_objective.needs.reference or args.precompute_ref_log_probs:
            self.ref_model = None
        self.mask_training = MaskTraining(
            self.preference_objective, args.seed, self.accelerator.device, apart=self._spread.masks_apart
        )
        self._preference_step = self._build_step()
        self._pair_log = PairLog(Path(args.output_dir), active=self.is_world_process_zero())
        self._evaluation_pairs = EvaluationPairs(
            self.preference_objective.options.record,
            self.processing_class,
            args.process_index,
            args.world_size,
            args.eval_batch_size,
        )
        self.moments = Moments(self)
        self.add_callback(self.moments)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Rows whose responses begin where tokens part; TRL's own where ours cannot be made."""
        weighted = self.preference_objective.needs.token_weights
        found = prepare_rows(dataset, processing_class, args, dataset_name, weighted=weighted)
        if found is not None:
            return found
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _set_signature_columns_if_needed(self) -> None:
        """Upstream's columns, and those of the data's weights."""
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns
        columns += [column for column in COLUMNS.values() if column not in columns]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Upstream's columns of the reference's log-probabilities, with a number per token."""
        if not self.preference_objective.needs.reference:
            return dataset
        self._precomputed_width = precomputed.width(dataset)
        try:
            return super()._precompute_ref_logps(precomputed.marked(dataset, self.args), name, batch_size)
        finally:
            self._precomputing = None  # it holds the reference

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Log-probabilities of a batch's response tokens, chosen and rejected, each [pairs, tokens]."""
        window = _window_of(inputs)
        passed = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if self._precomputing is None:  # what the model allows is found out once, not for every batch
            self._precomputing = ForwardRunner(
                self.accelerator.unwrap_model(model), warn=self.accelerator.print
            )
        with self._as_reference(), torch.no_grad(), self.accelerator.autocast():
            output = self._precomputing.read(
                lambda **asked: model(**passed, use_cache=False, **asked), window
            )
        return reference_logps.rows_of(output, self._precomputed_width).chunk(2)

    def _build_step(self) -> PreferenceStep:
        unwrap = self.accelerator.unwrap_model
        policy = unwrap(self.model)
        reference = policy if self.ref_model is None else unwrap(self.ref_model)
        return PreferenceStep(
            self.preference_objective,
            policy,
            reference,
            self.mask_training.module,
            sites=recording_sites(reference, self.preference_objective.needs.activations),
            sharding=self._spread.models,
            inside=self.accelerator.distributed_type != DistributedType.NO,
            warn=self.accelerator.print,
        )

    def train(self, *args: Any, **options: Any) -> Any:
        """Upstream's training, while no other one writes to the folder.

        Raises:
          UserError: another one does.
        """
        first = self.is_world_process_zero()
        with lock.held([Path(self.args.output_dir)] if first else ()):
            return super().train(*args, **options)

    # ---------------------------------------------------------------- loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        training = self.model.training
        ids, window = inputs["input_ids"], _window_of(inputs)
        kept = ("completion_mask", *precomputed.COLUMNS, WEIGHTS)
        passed = {name: value for name, value in inputs.items() if name not in kept} | {"use_cache": False}
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs: list[Any] = []

        def call(**asked: Any) -> Any:
            outputs[:] = [model(**passed, **router, **asked)]
            return outputs[0]

        step = self._preference_step
        reference = self._run_reference(passed, window)
        policy = step.run_policy(
            call, window, all_logits=return_outputs, reference=reference, evaluating=not training
        )
        self.mask_training.module.train(training)
        weights = numbers_in(window, inputs[WEIGHTS].tolist()) if WEIGHTS in inputs else None
        stored = None
        if self.args.precompute_ref_log_probs and self.preference_objective.needs.reference:
            rows = torch.cat([inputs[name] for name in precomputed.COLUMNS])
            stored = reference_logps.in_window(rows, window, precomputed.NAMED)
        result = step.evaluate(
            policy, reference, self.beta, evaluating=not training, token_weights=weights,
            reference_logps=stored,
        )  # fmt: skip
        self._collect_metrics(result, ids, window, inputs["attention_mask"].sum(), training=training)
        loss = result.loss
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs[0].aux_loss
        return (loss, outputs[0]) if return_outputs else loss

    def _run_reference(self, passed: dict[str, Any], window: ResponseWindow) -> ModelOutput | None:
        """Run the reference, if the loss needs one: its own model, or the policy with its adapter off."""
        if not self.preference_objective.needs.reference or self.args.precompute_ref_log_probs:
            return None
        reference = self.accelerator.unwrap_model(self.model if self.ref_model is None else self.ref_model)
        with self._as_reference():
            return self._preference_step.run_reference(lambda **asked: reference(**passed, **asked), window)

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """Within the context the policy is the reference where it stands for both, with its adapter off."""
        policy = self.accelerator.unwrap_model(self.model)
        checkpointing = self.args.gradient_checkpointing_kwargs
        with disable_gradient_checkpointing(self.model, checkpointing), ExitStack() as stack:
            if self.ref_model is None and hasattr(policy, "peft_config"):
                name = "ref" if "ref" in policy.peft_config else None
                stack.enter_context(use_adapter(policy, adapter_name=name))
            yield

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
        sums = result.metrics(self.beta, keep, errors=not training)
        device = result.output.losses.device
        if not self._pair_log.add(split, sums, tokens, finite=result.finite(), device=device):
            raise not_finite(self.state.global_step + training, training=training)

    # ---------------------------------------------------------------- logging

    def start_pair_log(self) -> None:
        """Write what this run is; called when training begins."""
        record, step = self.preference_objective.record(), self.state.global_step
        self._pair_log.start(self.args, record, self.args.world_size, step=step)

    def say_end(self) -> None:
        """Print what was reached and where it is; called when training has ended."""
        if self.is_world_process_zero():
            print("\n".join(closing_lines(self, self.moments.seconds)), flush=True)

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


def _window_of(inputs: dict[str, Any]) -> ResponseWindow:
    ids = inputs["input_ids"]
    return response_window(ids, ids.masked_fill(inputs["completion_mask"] == 0, IGNORE_INDEX))


def _objective(model: Any, ref_model: Any, args: Any) -> ConfiguredLoss:
    loss = registry.get(args.preference_loss)
    options = build_options(loss, args.loss_options)
    policy = _config(model, args)
    reference = policy if ref_model is None else _config(ref_model, args)
    model_checks.check_language_model(policy)
    model_checks.check_vocabularies(policy, reference)
    return ConfiguredLoss(loss, options, reference_shape(reference))


def _name_of(model: Any) -> str:
    """Where a model was read; empty for one that was not."""
    return model if isinstance(model, str) else getattr(getattr(model, "config", None), "name_or_path", "")


def _config(model: Any, args: Any) -> Any:
    """The transformers configuration of a model or of what a name stands for."""
    if not isinstance(model, str):
        return model.config
    return model_checks.load_config(f"model {model}", model, getattr(args, "trust_remote_code", False))
