"""Steps on torch and transformers alone: a twin of OpenRLHF's DPO, SparsePO written down plainly, ours.

A forward-and-loss function maps a batch to the mean loss over its pairs, with the graph for a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsepo_plugin.losses  # noqa: F401  registers the losses
from benchmarks.step.models import Models
from benchmarks.step.workloads import PAD, PairBatch
from sparsepo_plugin import registry
from sparsepo_plugin.adapters import prefix
from sparsepo_plugin.adapters.prefix import attention as prefix_attention
from sparsepo_plugin.adapters.prefix.spans import PairSizes, Spans
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.forward.pair_statistics import statistics
from sparsepo_plugin.forward.runner import ForwardRunner, ModelOutput
from sparsepo_plugin.forward.window import ResponseWindow, response_window
from sparsepo_plugin.types import ReferenceState, TokenStats

BETA, SEED = 0.1, 0


def two_rows(batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and response mask of chosen, then rejected rows, [2 * pairs, seq] each."""
    width = max(batch.chosen[0].shape[1], batch.rejected[0].shape[1])
    ids, attention = (
        torch.cat([functional.pad(side[i], (0, width - side[i].shape[1]), value=fill) for side in batch[:2]])
        for i, fill in ((0, PAD), (1, 0))
    )
    prompts = torch.tensor(batch.prompts * 2, device=ids.device)
    response = attention.bool() & (torch.arange(width, device=ids.device) >= prompts[:, None])
    return ids, attention, response


def positions(attention: Tensor) -> Tensor:
    """Position of every token in its row; 1 on padding, as OpenRLHF has it."""
    return (attention.long().cumsum(-1) - 1).masked_fill(attention == 0, 1)


class Bare:
    """A row that needs nothing done to the models."""

    def ready(self) -> AbstractContextManager[None]:
        """The models are needed as they are."""
        return nullcontext()


class PlainDPO(Bare):
    """OpenRLHF's DPO step: float32 logits of all positions, log-sum-exp in chunks of 1,024 rows."""

    def __init__(self, models: Models) -> None:
        self.models, self.mask_source = models, nn.Identity()

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean loss of the pairs."""
        ids, attention, response = two_rows(batch)
        policy = self._logps(self.models.policy, ids, attention, response)
        with torch.no_grad():
            reference = self._logps(self.models.reference, ids, attention, response)
        chosen, rejected = (policy - reference).chunk(2)
        return -functional.logsigmoid(BETA * (chosen - rejected)).mean()

    def _logps(self, model: Any, ids: Tensor, attention: Tensor, response: Tensor) -> Tensor:
        found = self._token_logps(model, ids, attention, {"position_ids": positions(attention)})
        return (found[:, :-1] * response[:, 1:]).sum(-1)

    def _token_logps(self, model: Any, ids: Tensor, attention: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Log-probability of the next token at every position, [rows, seq]."""
        output = model(ids, attention_mask=attention, **inputs)
        # Upstream's output object holds the float32 logits, and nobody the model's own.
        output["logits"] = output["logits"].to(torch.float32)
        logits, labels = output["logits"], torch.roll(ids, -1, 1)
        flat, values = logits.flatten(0, 1), []
        for rows in flat.split(1024):
            values.append(torch.logsumexp(rows, dim=-1))
        at_labels = logits.gather(-1, labels[..., None]).squeeze(-1)
        return at_labels - torch.cat(values).view_as(labels)


class PackedDPO(PlainDPO):
    """The same with --ds.packing_samples: all rows one after the other, without padding.

    Upstream runs flash-attention's variable-length kernel; so does this where it is, through the attention of
    shared rows with sequences that share nothing.

    Raises:
      ValueError: a model does not allow it.
    """

    def __init__(self, models: Models) -> None:
        super().__init__(models)
        kernel = prefix_attention.VARLEN
        for model in models:
            if reason := prefix.probe(model, kernel):
                raise ValueError(f"no packed rows: {reason}")

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Within the context the models run over sequences."""
        for model in self.models:
            prefix.attach(model, prefix_attention.VARLEN)
        try:
            yield
        finally:
            for model in self.models:
                prefix.detach(model)

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean loss of the pairs."""
        ids, attention, response = two_rows(batch)
        kept, lengths = attention.bool(), attention.sum(1).tolist()
        rows = _alone(ids[kept], positions(attention)[kept], lengths)
        seen = response[kept][1:]
        row = torch.arange(len(ids), device=ids.device).repeat_interleave(attention.sum(1))[1:]
        with prefix.sharing(rows):
            policy = self._packed(self.models.policy, rows.token_ids, seen, row)
        with torch.no_grad(), prefix.sharing(rows):
            reference = self._packed(self.models.reference, rows.token_ids, seen, row)
        chosen, rejected = (policy - reference).chunk(2)
        return -functional.logsigmoid(BETA * (chosen - rejected)).mean()

    def _packed(self, model: Any, ids: Tensor, seen: Tensor, row: Tensor) -> Tensor:
        """Log-probability of every row's response, [2 * pairs]."""
        every = torch.ones_like(ids, dtype=torch.bool)
        found = self._token_logps(model, ids, every.long(), {})[0, :-1] * seen
        return found.new_zeros(int(row[-1]) + 1).index_add(0, row, found)


def _alone(ids: Tensor, position_ids: Tensor, lengths: list[int]) -> prefix.SharedRows:
    """Rows in one, each a sequence of its own, in the form of shared rows; they have no window."""
    sizes = [PairSizes(length, length, length) for length in lengths]
    nothing = ResponseWindow(*(ids.new_zeros(0, 0) for _ in range(3)))
    pairs = torch.arange(len(lengths), device=ids.device).repeat_interleave(
        torch.tensor(lengths, device=ids.device)
    )
    return prefix.SharedRows(
        ids[None], torch.ones_like(ids)[None], position_ids[None], torch.zeros_like(ids)[None], nothing,
        ids.new_zeros(0, 0), pairs[None], Spans.of(sizes, None, ids.device),
    )  # fmt: skip


class PlainSparsePO(Bare):
    """SparsePO written down as the formula stands: whole distributions of both models at every position."""

    def __init__(self, models: Models, objective: ConfiguredLoss) -> None:
        self.models, self.objective = models, objective
        self.mask_source = objective.build_masks(SEED).to(next(models.policy.parameters()).device)

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean loss of the pairs."""
        ids, attention, response = two_rows(batch)
        inputs = {"attention_mask": attention, "position_ids": positions(attention)}
        logits = self.models.policy(ids, **inputs).logits.float()
        with torch.no_grad():
            other = self.models.reference(ids, **inputs, output_hidden_states=True)
            judged = other.logits.float()
        log_p, log_q = logits.log_softmax(-1), judged.log_softmax(-1)
        kl = (judged.softmax(-1) * (log_q - log_p)).sum(-1)
        labels = torch.roll(ids, -1, 1)[..., None]
        values = (log_p.gather(-1, labels).squeeze(-1), log_q.gather(-1, labels).squeeze(-1), kl)
        seen = response[:, 1:]
        stats = TokenStats(*(value[:, :-1] * seen for value in values), seen)
        masks = self.mask_source(ReferenceState(other.hidden_states[1:], seen, ids))
        return self.objective.evaluate(stats, masks, BETA).losses.mean()


class Ours:
    """A registered loss with this package's reading of models, as the adapters run it, without a framework.

    Args:
      models: policy and reference.
      objective: the loss.
      head: one of HEAD_MODES.
      shared: chosen and rejected share their prefix.
      attention: transformers' name of the attention to run, or that shared rows run the counterpart of.
      kernel: which of adapters/prefix's kernels shared rows run in; by default the first that fits.

    Raises:
      ValueError: a model does not allow shared rows, or not in this kernel.
    """

    def __init__(
        self,
        models: Models,
        objective: ConfiguredLoss,
        *,
        head: str = "auto",
        shared: bool = True,
        attention: str = "sdpa",
        kernel: str | None = None,
    ) -> None:
        self.models, self.objective = models, objective
        device = next(models.policy.parameters()).device
        self.mask_source = objective.build_masks(SEED).to(device)
        self._policy = ForwardRunner(models.policy, mode=head)
        self._reference = ForwardRunner(models.reference, mode=head, states=objective.needs.hidden_states)
        self._attention, self._kernels = attention, []
        found: list[str] = []
        with self.ready():
            for model, training in ((models.policy, True), (models.reference, False)) if shared else ():
                found.append(self._fitting(model, kernel, training))
        self._kernels = found

    @staticmethod
    def _fitting(model: Any, kernel: str | None, training: bool) -> str:
        """Attach the model; the kernel that it runs in."""
        if kernel is None:
            reason = prefix.start(model, training=training)
        elif not (reason := prefix.probe(model, kernel, training=training)):
            prefix.attach(model, kernel)
        if reason:
            raise ValueError(f"no shared rows: {reason}")
        return str(model.config._attn_implementation)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Within the context the models are as this row needs them; afterwards as they were."""
        before = [model.config._attn_implementation for model in self.models]
        for model in self.models:
            model.set_attn_implementation(self._attention)
        for model, kernel in zip(self.models, self._kernels):
            prefix.attach(model, kernel)
        try:
            yield
        finally:
            for model, name in zip(self.models, before):
                prefix.detach(model)
                model.set_attn_implementation(name)

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean loss of the pairs."""
        reading = self._shared_reading if self._kernels else self._separate_reading
        policy, reference = reading(batch)
        stats = statistics(policy, reference, with_kl=self.objective.needs.token_kl)
        masks = self.mask_source(
            ReferenceState(reference.hidden_states, stats.response_mask, reference.window.token_ids)
        )
        return self.objective.evaluate(stats, masks, BETA).losses.mean()

    def _shared_reading(self, batch: PairBatch) -> tuple[ModelOutput, ModelOutput]:
        lengths = torch.tensor(batch.prompts, device=batch.chosen[0].device)
        rows = prefix.shared_rows(*batch.chosen, *batch.rejected, lengths)
        rows = rows.packed() if prefix.packs(*self.models) else rows
        inputs = {"attention_mask": rows.attention_mask}
        return self._read(rows.token_ids, inputs, rows.window, prefix.sharing(rows), prefix.sharing(rows))

    def _separate_reading(self, batch: PairBatch) -> tuple[ModelOutput, ModelOutput]:
        ids, attention, response = two_rows(batch)
        window = response_window(ids, ids.masked_fill(~response, -100))
        inputs = {"attention_mask": attention, "position_ids": positions(attention)}
        return self._read(ids, inputs, window, nullcontext(), nullcontext())

    def _read(
        self,
        ids: Tensor,
        inputs: dict[str, Tensor],
        window: ResponseWindow,
        *running: AbstractContextManager[None],
    ) -> tuple[ModelOutput, ModelOutput]:
        with running[0]:
            policy = self._policy.read(lambda **asked: self.models.policy(ids, **inputs, **asked), window)
        with running[1], torch.no_grad():
            reference = self._reference.read(
                lambda **asked: self.models.reference(ids, **inputs, **asked), window
            )
        return policy, reference


def objective_of(name: str, models: Models) -> ConfiguredLoss:
    """A registered loss without an anchor, other options at their defaults, for these models."""
    loss = registry.get(name)
    return ConfiguredLoss(loss, loss.options.build({"anchor": 0.0}), reference_shape(models.reference.config))
