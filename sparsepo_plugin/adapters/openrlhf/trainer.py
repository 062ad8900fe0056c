"""OpenRLHF's DPO trainer with a registered loss: forward, loss and logging are ours, fit() is upstream's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo_plugin import config, metrics
from sparsepo_plugin.adapters import prefix, reference_logps
from sparsepo_plugin.adapters.openrlhf import reporting
from sparsepo_plugin.adapters.openrlhf.checkpoints import MASK_MODULE
from sparsepo_plugin.adapters.openrlhf.data_order import OrderedTrainer
from sparsepo_plugin.adapters.openrlhf.outputs import Batch, BatchOutput, make_batch, make_shared_batch
from sparsepo_plugin.adapters.openrlhf.reference_cache import StoredLogps
from sparsepo_plugin.adapters.openrlhf.reference_first import AbsentReference
from sparsepo_plugin.adapters.openrlhf.sharding import DeepSpeedSharding
from sparsepo_plugin.adapters.step import PreferenceStep, StepResult, gather, not_finite
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.forward.activations import find_sites
from sparsepo_plugin.forward.pair_statistics import negative_log_likelihood
from sparsepo_plugin.metrics import DeadMaskWatch, MetricSum
from sparsepo_plugin.run_folder import tokens
from sparsepo_plugin.run_folder.log import RunLog
from sparsepo_plugin.run_folder.token_rows import TokenRows


class PreferenceTrainer(OrderedTrainer):
    """Runs a registered loss inside upstream's fit() and evaluate().

    Args:
      objective: loss, options and reference shape.
      options: upstream's arguments.
    """

    def __init__(self, *, objective: ConfiguredLoss, **options: Any) -> None:
        super().__init__(**options)
        self.objective = objective
        self.loss_fn = self._preference_loss
        policy = self.strategy._unwrap_model(self.model)
        self._reference_absent = isinstance(self.ref_model, AbsentReference)
        reference = policy if self._reference_absent else self.strategy._unwrap_model(self.ref_model)
        learned = getattr(policy, MASK_MODULE, None)
        self.mask_source: nn.Module = (
            learned if learned is not None else objective.build_masks(self.strategy.seed)
        )
        groups = objective.needs.activations
        self._preference_step = PreferenceStep(
            objective,
            policy,
            reference,
            self.mask_source,
            policy_mode=self.args.perf.head,
            reference_mode=self.args.perf.head,
            sites=find_sites(reference, groups) if groups else (),
            sharding=DeepSpeedSharding(self.strategy),
            warn=self.strategy.print,
        )
        self._shares_prefix = self._start_sharing()
        self._batch: tuple[Tensor | None, Batch | None] = (None, None)
        self._tokens = TokenRows(objective.options.record, self.tokenizer)
        self._dead_masks = DeadMaskWatch(lambda option: f"--{objective.loss.name}.{option}")
        self._sums: dict[str, MetricSum] = {}
        self._step, self._evaluating = 0, False
        folder, first = Path(self.args.ckpt.output_dir), self.strategy.is_rank_0()
        self._log = RunLog(folder, active=first, trackers=reporting.build(self.args))

    def fit(
        self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None
    ) -> None:
        """Write the effective configuration, then run upstream's loop."""
        self._step = consumed_samples // args.train.batch_size
        self._log.start(config.dump(args), self.objective.record(), self.strategy.world_size, step=self._step)
        try:
            super().fit(args, consumed_samples, num_update_steps_per_epoch)
        finally:
            self._log.close()

    def concatenated_forward(
        self,
        model: nn.Module,
        chosen_ids: Tensor,
        c_mask: Tensor,
        reject_ids: Tensor,
        r_mask: Tensor,
        prompt_id_lens: list[int],
    ) -> tuple[BatchOutput | None, None, Any, Any]:
        """Run one model on chosen and rejected rows; fit() carries the result to the loss unopened.

        Args:
          model: policy or reference.
          chosen_ids: [pairs, seq], right-padded.
          c_mask: attention mask of the chosen rows.
          reject_ids: [pairs, seq'], right-padded.
          r_mask: attention mask of the rejected rows.
          prompt_id_lens: PromptLength per pair.

        Returns:
          BatchOutput (None for a reference nobody needs), None, auxiliary loss, NLL of the chosen responses.
        """
        is_reference = model is self.ref_model
        if is_reference and self._reference_absent:
            return None, None, 0, 0
        if not self._evaluating:
            # Saved after the data loader drew for the run: it has drawn again by now.
            self.strategy.restore_random_state()
        batch = self._prepare(chosen_ids, c_mask, reject_ids, r_mask, prompt_id_lens)

        def call(**asked: Any) -> Any:
            asked |= {"return_output": True, "ring_attn_group": self.strategy.ring_attn_group}
            with batch.running():
                return model(batch.ids, attention_mask=batch.attention, **asked)

        step = self._preference_step
        output = (step.run_reference if is_reference else step.run_policy)(call, batch.window)
        if output is None:
            return None, None, 0, 0
        nll = negative_log_likelihood(output) if self.nll_loss and not is_reference else 0
        return BatchOutput(batch, output), None, output.aux_loss, nll

    def _start_sharing(self) -> bool:
        """Switch both models to rows that share a pair's prefix, if both give the same numbers with them.

        Sets how pairs are laid out then: each in a row of its own, or all in one.
        """
        if self.args.perf.prefix == "off":
            return False
        reason, balancing = None, self.args.model.aux_loss_coef > 1e-8
        runs = self.objective.needs.reference and not self._reference_absent
        models = [self.model, self.ref_model] if runs else [self.model]
        for model in models:
            if reason is None:
                training = model is self.model
                reason = prefix.start(model, training=training, balancing=balancing and training)
        if reason is None:
            self._one_row = self.packing_samples or prefix.packs(*models)
            return True
        for model in models:
            prefix.detach(model)
        self.strategy.print(f"chosen and rejected do not share their prefix: {reason}")
        return False

    def _prepare(
        self, chosen_ids: Tensor, c_mask: Tensor, reject_ids: Tensor, r_mask: Tensor, lengths: list[int]
    ) -> Batch:
        """The batch in the core's form, made once for policy and reference."""
        known, batch = self._batch
        if batch is not None and known is chosen_ids:
            return batch
        if self._shares_prefix:
            rows = (chosen_ids, c_mask), (reject_ids, r_mask)
            batch = make_shared_batch(*rows, lengths, packed=self._one_row)
        else:
            ids, attention, rows = self.concatenated_inputs(chosen_ids, c_mask, reject_ids, r_mask, lengths)
            batch = make_batch(ids, attention, rows, packed=self.packing_samples)
        self._batch = (chosen_ids, batch)
        return batch

    def _preference_loss(
        self, policy: BatchOutput, _: None, reference: BatchOutput | None, __: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What fit() calls as loss_fn: mean loss and the rewards of both responses, [pairs]."""
        batch = policy.batch
        result = self._preference_step.evaluate(
            policy.model,
            reference and reference.model,
            self.beta,
            evaluating=self._evaluating,
            token_weights=batch.weights if self.objective.needs.token_weights else None,
            reference_logps=self._stored_logps(batch),
        )
        self._require_finite(result, batch.indices)
        kept = self._counted(batch.indices) if self._evaluating else None
        found = result.metrics(self.beta, kept, errors=self._evaluating)
        self._sums = metrics.add(self._sums, found)
        if self._evaluating:
            self._tokens.add(batch.indices, batch.window.token_ids, result.stats, result.masks, batch.prompts)
        return result.loss, result.output.chosen_rewards, result.output.rejected_rewards

    def _stored_logps(self, batch: Batch) -> Tensor | None:
        """The reference's log-probabilities, where they were computed before the training."""
        if not (self._reference_absent and self.objective.needs.reference):
            return None
        loader = self.eval_dataloader if self._evaluating else self.train_dataloader
        stored: StoredLogps = loader.dataset.reference
        rows = stored.rows(batch.indices).to(batch.window.labels.device)
        return reference_logps.in_window(rows, batch.window, "--ref.precompute")

    def _counted(self, indices: list[int]) -> list[bool]:
        """Pairs that enter an evaluation: all, but for copies that pad its set to the processes."""
        sampler = self.eval_dataloader.sampler
        return [index % sampler.num_replicas == sampler.rank for index in indices]

    def _require_finite(self, result: StepResult, indices: list[int]) -> None:
        bad = torch.tensor([float(not result.finite())])
        if self.strategy.world_size > 1:
            bad = self.strategy.all_reduce(bad, op="max")
        if bad.item():
            loader = self.eval_dataloader if self._evaluating else self.train_dataloader
            rows = [loader.dataset.row_number(index) for index in indices]
            reports = enumerate(gather(None if result.finite() else rows))
            where = ", ".join(f"process {rank}: rows {rows}" for rank, rows in reports if rows)
            step = self._step if self._evaluating else self._step + 1
            raise not_finite(step, training=not self._evaluating, where=where)

    def save_logs_and_checkpoints(
        self, args: Any, global_step: int, step_bar: Any, logs_dict: Any = None, client_states: Any = None
    ) -> None:
        """Average the step's metrics over micro-batches and processes, log them, go on upstream."""
        averages = self._averages()
        logs = {**(logs_dict or {}), **averages}
        rates = {"learning_rate": logs.get("lr"), "grad_norm": logs.get("grad_norm")}
        self._log.metrics(global_step, "train", {**averages, **rates})
        if warning := self._dead_masks.look(averages, global_step):
            self.strategy.print(warning)
        self._step = global_step
        super().save_logs_and_checkpoints(args, global_step, step_bar, logs, client_states)

    def evaluate(self, eval_dataloader: Any, steps: int = 0) -> None:
        """Upstream's evaluation, and the same metrics as in training over every pair exactly once."""
        self._sums, self._evaluating = {}, True
        try:
            super().evaluate(eval_dataloader, steps)
        finally:
            self._evaluating = False

    def evaluated(self, steps: int) -> dict[str, float]:
        """Log and write what an evaluation found."""
        averages = self._averages()
        self._log.metrics(steps, "eval", averages)
        self._write_tokens(steps)
        if self._wandb is not None:
            self._wandb.log(
                {**{f"eval/{name}": value for name, value in averages.items()}, "eval/global_step": steps}
            )
        elif self._tensorboard is not None:
            for name, value in averages.items():
                self._tensorboard.add_scalar(f"eval/{name}", value, steps)
        return averages

    def _write_tokens(self, steps: int) -> None:
        if not self._tokens.limit:
            return
        rows = [row for part in gather(self._tokens.take()) for row in part]
        if self.strategy.is_rank_0():
            tokens.write(Path(self.args.ckpt.output_dir), steps, rows)

    def _averages(self) -> dict[str, float]:
        names = list(self._sums)
        values = torch.tensor([tuple(self._sums[name]) for name in names], dtype=torch.float64)
        if self.strategy.world_size > 1:
            values = self.strategy.all_reduce(values, op="sum")
        self._sums = {}
        return metrics.ratios({name: MetricSum(*row) for name, row in zip(names, values.tolist())})
