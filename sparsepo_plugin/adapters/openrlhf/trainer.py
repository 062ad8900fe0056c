"""OpenRLHF's DPO trainer with a registered loss: forward, loss and logging are ours, fit() is upstream's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from openrlhf.trainer.dpo_trainer import DPOTrainer
from torch import Tensor, nn

from sparsepo_plugin import config, metrics
from sparsepo_plugin.adapters import prefix
from sparsepo_plugin.adapters.openrlhf.checkpoints import MASK_MODULE
from sparsepo_plugin.adapters.openrlhf.outputs import (
    Batch,
    BatchView,
    gathered_head,
    make_batch,
    make_shared_batch,
    mean_over_shards,
)
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import RunFailedError
from sparsepo_plugin.forward.activations import Recorder, find_sites
from sparsepo_plugin.forward.runner import ForwardRunner, negative_log_likelihood, statistics
from sparsepo_plugin.metrics import MetricSum
from sparsepo_plugin.run_folder import token_record
from sparsepo_plugin.run_folder.run_log import DeadMaskWatch, RunLog
from sparsepo_plugin.run_folder.token_record import TokenRecord
from sparsepo_plugin.types import ReferenceState


class PreferenceTrainer(DPOTrainer):
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
        found = getattr(policy, MASK_MODULE, None)
        self.mask_source: nn.Module = (
            found if found is not None else objective.build_masks(self.strategy.seed)
        )
        groups = objective.needs.activations
        reference = self.strategy._unwrap_model(self.ref_model)
        say, mode = self.strategy.print, self.args.perf.head
        self._policy_reader = ForwardRunner(policy, mode=mode, say=say)
        self._reference_reader = ForwardRunner(
            reference, mode=mode, states=objective.needs.hidden_states, say=say
        )
        self._shares_prefix = self._start_sharing()
        self._batch: tuple[Tensor | None, Batch | None] = (None, None)
        self._recorder = Recorder(reference, find_sites(reference, groups)) if groups else None
        self._tokens = TokenRecord(objective.options.record, self.tokenizer)
        self._dead_masks = DeadMaskWatch()
        self._sums: dict[str, MetricSum] = {}
        self._step, self._evaluating = 0, False
        self._log = RunLog(Path(self.args.ckpt.output_dir), active=self.strategy.is_rank_0())

    def fit(
        self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None
    ) -> None:
        """Write the effective configuration, evaluate first if asked to, then run upstream's loop."""
        self._step = consumed_samples // args.train.batch_size
        self._log.start(config.dump(args), self.objective.record(), self.strategy.world_size, step=self._step)
        if args.eval.at_start and self.eval_dataloader is not None and self._step == 0:
            self.ref_model.eval()
            self.evaluate(self.eval_dataloader, self._step)
        if num_update_steps_per_epoch and self._step % num_update_steps_per_epoch == 0:
            # Saved between two epochs, before the data loader drew for the second.
            self.strategy.restore_random_state()
        super().fit(args, consumed_samples, num_update_steps_per_epoch)

    def concatenated_forward(
        self,
        model: nn.Module,
        chosen_ids: Tensor,
        c_mask: Tensor,
        reject_ids: Tensor,
        r_mask: Tensor,
        prompt_id_lens: Sequence[int],
    ) -> tuple[BatchView | None, None, Any, Any]:
        """Run one model on chosen and rejected rows; fit() carries the result to the loss unopened.

        Args:
          model: policy or reference.
          chosen_ids: [pairs, seq], right-padded.
          c_mask: attention mask of the chosen rows.
          reject_ids: [pairs, seq'], right-padded.
          r_mask: attention mask of the rejected rows.
          prompt_id_lens: PromptLength per pair.

        Returns:
          BatchView (None for a reference nobody needs), None, auxiliary loss, NLL of the chosen responses.
        """
        is_reference = model is self.ref_model
        if is_reference and not self.objective.needs.reference:
            return None, None, 0, 0
        if not self._evaluating:
            # Saved within an epoch, after the data loader drew for it: it has drawn again by now.
            self.strategy.restore_random_state()
        batch = self._prepare(chosen_ids, c_mask, reject_ids, r_mask, prompt_id_lens)

        def call(**asked: Any) -> Any:
            asked |= {"return_output": True, "ring_attn_group": self.strategy.ring_attn_group}
            with batch.running():
                return model(batch.ids, attention_mask=batch.attention, **asked)

        reading = (self._reference_reader if is_reference else self._policy_reader).read(call, batch.window)
        recorded = self._recorded() if is_reference else {}
        activations = {name: batch.window.take(value) for name, value in recorded.items()}
        nll = negative_log_likelihood(reading) if self.nll_loss and not is_reference else 0
        return BatchView(batch, reading, activations), None, reading.aux_loss, nll

    def _start_sharing(self) -> bool:
        """Switch both models to rows that share a pair's prefix, if both give the same numbers with them."""
        if self.args.perf.prefix == "off":
            return False
        reason = "--ds.packing_samples lays samples out its own way" if self.packing_samples else None
        balancing, judged = self.args.model.aux_loss_coef > 1e-8, self.objective.needs.reference
        for model, training in ((self.model, True), (self.ref_model, False)):
            if reason is None and (training or judged):
                reason = prefix.start(model, training=training, balancing=balancing and training)
        if reason is None:
            return True
        for model in (self.model, self.ref_model):
            prefix.detach(model)
        self.strategy.print(f"chosen and rejected do not share their prefix: {reason}")
        return False

    def _prepare(
        self, chosen_ids: Tensor, c_mask: Tensor, reject_ids: Tensor, r_mask: Tensor, lengths: Sequence[int]
    ) -> Batch:
        """The batch in the core's form, made once for policy and reference."""
        known, batch = self._batch
        if batch is not None and known is chosen_ids:
            return batch
        if self._shares_prefix:
            batch = make_shared_batch((chosen_ids, c_mask), (reject_ids, r_mask), lengths)
        else:
            ids, attention, rows = self.concatenated_inputs(
                chosen_ids, c_mask, reject_ids, r_mask, list(lengths)
            )
            batch = make_batch(ids, attention, rows, packed=self.packing_samples)
        self._batch = (chosen_ids, batch)
        return batch

    def _recorded(self) -> dict[str, Tensor]:
        """Feature means of the reference's last forward pass, over the shards of all processes."""
        if self._recorder is None:
            return {}
        means = self._recorder.take()
        if self.args.ds.tensor_parallel_size == 1:
            return means
        return mean_over_shards(
            means, self._recorder.features, self.strategy.ds_device_mesh["tp"].get_group()
        )

    def _preference_loss(
        self, policy: BatchView, _: None, reference: BatchView | None, __: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What fit() calls as loss_fn: mean loss and the rewards of both responses, [pairs]."""
        # An evaluation measures the KL of every loss that has a reference, so that losses compare.
        with_kl = self.objective.needs.token_kl or (self._evaluating and reference is not None)
        batch, seen = policy.batch, policy if reference is None else reference
        stats = statistics(
            policy.reading,
            None if reference is None else reference.reading,
            with_kl=with_kl,
            open_reference=gathered_head,
            collective=self.strategy.stage == 3,
        )
        state = ReferenceState(
            seen.reading.hidden_states, stats.response_mask, batch.window.token_ids, seen.activations
        )
        masks = self.mask_source(state)
        output = self.objective.evaluate(stats, masks, self.beta)
        loss = output.losses.mean()
        self._require_finite(loss, batch.indices)
        keep = self._counted(batch.indices)
        rows = torch.cat([keep, keep])
        kept = type(output)(*(value[keep] for value in output))
        found = metrics.pair_metrics(stats.rows(rows), masks.rows(rows), kept, self.beta)
        self._sums = metrics.add(self._sums, found)
        if self._evaluating:
            self._tokens.add(batch.indices, batch.window.token_ids, stats, masks, batch.prompts)
        return loss, output.chosen_rewards, output.rejected_rewards

    def _counted(self, indices: list[int]) -> Tensor:
        """Pairs that enter the metrics: all, but for copies that pad an evaluation set to the processes."""
        keep = [True] * len(indices)
        if self._evaluating:
            sampler = self.eval_dataloader.sampler
            keep = [index % sampler.num_replicas == sampler.rank for index in indices]
        return torch.tensor(keep, device=next(self.model.parameters()).device)

    def _require_finite(self, loss: Tensor, indices: list[int]) -> None:
        bad = torch.tensor([float(not torch.isfinite(loss.detach()))])
        if self.strategy.world_size > 1:
            bad = self.strategy.all_reduce(bad, op="max")
        if not bad.item():
            return
        reports: list[Any] = [None] * self.strategy.world_size
        mine = None if torch.isfinite(loss.detach()) else indices
        if self.strategy.world_size > 1:
            dist.all_gather_object(reports, mine)
        else:
            reports = [mine]
        where = ", ".join(f"process {rank}: pairs {pairs}" for rank, pairs in enumerate(reports) if pairs)
        stage = "evaluation after" if self._evaluating else "training at"
        step = self._step if self._evaluating else self._step + 1
        raise RunFailedError(
            f"loss is not finite in {stage} step {step} ({where}): stopped before the update, the last "
            f"checkpoint is kept; lower the learning rate or look at these pairs"
        )

    def save_logs_and_checkpoints(
        self, args: Any, global_step: int, step_bar: Any, logs_dict: Any = None, client_states: Any = None
    ) -> None:
        """Average the step's metrics over micro-batches and processes, log them, go on upstream."""
        found = self._averages()
        logs = {**(logs_dict or {}), **found}
        step_bar.set_postfix({name: f"{logs[name]:.4g}" for name in _PROGRESS if name in logs})
        rates = {"learning_rate": logs.get("lr"), "grad_norm": logs.get("grad_norm")}
        self._log.metrics(global_step, "train", {**found, **rates})
        if warning := self._dead_masks.look(found, global_step):
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
        found = self._averages()
        self._log.metrics(steps, "eval", found)
        self._write_tokens(steps)
        if self._wandb is not None:
            self._wandb.log(
                {**{f"eval/{name}": value for name, value in found.items()}, "eval/global_step": steps}
            )
        elif self._tensorboard is not None:
            for name, value in found.items():
                self._tensorboard.add_scalar(f"eval/{name}", value, steps)

    def _write_tokens(self, steps: int) -> None:
        if not self._tokens.limit:
            return
        rows: list[Any] = [self._tokens.take()]
        if self.strategy.world_size > 1:
            rows *= self.strategy.world_size
            dist.all_gather_object(rows, rows[0])
        if self.strategy.is_rank_0():
            token_record.write(Path(self.args.ckpt.output_dir), steps, [row for part in rows for row in part])

    def _averages(self) -> dict[str, float]:
        names = list(self._sums)
        values = torch.tensor([tuple(self._sums[name]) for name in names], dtype=torch.float64)
        if self.strategy.world_size > 1:
            values = self.strategy.all_reduce(values, op="sum")
        self._sums = {}
        return metrics.ratios({name: MetricSum(*row) for name, row in zip(names, values.tolist())})


_PROGRESS = ("loss", "accuracy", "margin", "chosen_sequence_kl", "reward_mask_sparsity", "lr")
