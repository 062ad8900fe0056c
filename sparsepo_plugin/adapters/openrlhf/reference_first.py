"""``--ref.precompute``: the reference runs over the data before the training, and is gone during it.

It is built when the data are known and before the policy has an engine, gradients and an optimizer. What it
gives goes to the data sets and to the datasets cache; a run that finds it there builds no reference at all.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from sparsepo_plugin.adapters import prefix, reference_logps
from sparsepo_plugin.adapters.openrlhf import reference_cache
from sparsepo_plugin.adapters.openrlhf.dataset import IndexedPreferenceDataset
from sparsepo_plugin.adapters.openrlhf.outputs import Batch, make_padded_batch, make_shared_batch
from sparsepo_plugin.adapters.openrlhf.reference_cache import StoredLogps
from sparsepo_plugin.adapters.openrlhf.sharding import DeepSpeedSharding
from sparsepo_plugin.adapters.step import gather
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.runner import ForwardRunner


class AbsentReference(nn.Module):
    """Stands where upstream keeps its reference.

    Args:
      build: makes the reference itself.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        super().__init__()
        self._make, self._offload = build, False
        # Upstream tells it the padding token, which no forward pass reads.
        self.model: Any = SimpleNamespace(config=SimpleNamespace())

    def build(self) -> Any:
        """Upstream's Actor of the reference."""
        actor = self._make()
        actor._offload = self._offload
        return actor


def leaving_out(build: Callable[..., Any]) -> Callable[..., Any]:
    """What builds upstream's actors, but for the reference, which it puts off."""

    def built(*args: Any, **options: Any) -> Any:
        # Upstream builds the policy alone with LoRA's options.
        if "lora_rank" in options:
            return build(*args, **options)
        return AbsentReference(lambda: build(*args, **options))

    return built


def run(strategy: Any, absent: AbsentReference, datasets: Iterable[IndexedPreferenceDataset]) -> None:
    """Give data sets the reference's log-probabilities; to be called by all processes.

    Args:
      strategy: PreferenceStrategy.
      absent: what stands for the reference.
      datasets: those of the run.

    Raises:
      UserError: the reference gives a number that is not finite.
    """
    reference, device = None, [torch.cuda.current_device()] if torch.cuda.is_available() else []
    identity = strategy.record["identity"]["content of reference"]
    # The training draws the random numbers that it would draw with a reference.
    with torch.random.fork_rng(device):
        for dataset in datasets:
            file = reference_cache.place(strategy.args, identity, dataset.pairs)
            found = [reference_cache.read(file) if strategy.is_rank_0() else None]
            dist.broadcast_object_list(found, src=0)
            said = f"log-probabilities of the reference for {len(dataset)} pairs"
            if found[0] is not None:
                strategy.print(f"{said}: as computed before, {file}")
                dataset.reference = found[0]
                continue
            reference = reference or _Reference(strategy, absent)
            dataset.reference = reference.logps_of(dataset)
            reason = reference_cache.write(file, dataset.reference) if strategy.is_rank_0() else None
            strategy.print(f"{said}: computed, {reason or f'kept in {file}'}")
    if reference is not None:
        reference.close()
        del reference
        gc.collect()  # an engine and its hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Reference:
    """The reference in its engine, for as long as it is needed."""

    def __init__(self, strategy: Any, absent: AbsentReference) -> None:
        self._strategy, self._args = strategy, strategy.args
        self._actor = strategy.prepare(absent.build()).eval()
        self._runner = ForwardRunner(
            strategy._unwrap_model(self._actor),
            mode=self._args.perf.head,
            sharding=DeepSpeedSharding(strategy),
            warn=strategy.print,
        )
        self._packed = self._args.ds.packing_samples
        self._shares = self._args.perf.prefix != "off" and prefix.start(self._actor, training=False) is None
        self._one_row = self._packed or (self._shares and prefix.packs(self._actor))

    def logps_of(self, dataset: IndexedPreferenceDataset) -> StoredLogps:
        """The numbers of a whole data set, the same on all processes."""
        responses: dict[int, Tensor] = {}
        device = next(self._actor.parameters()).device
        for pairs in self._dealt(dataset):
            batch = self._laid_out(dataset, pairs, device)
            rows = self._rows(batch).cpu()
            for number, row in enumerate(rows):
                side, pair = divmod(number, len(pairs))
                # Not by nan: a reference that gives it is refused below.
                count = int((batch.window.labels[number, 1:] >= 0).sum())
                responses[2 * pairs[pair] + side] = row[:count]
        whole: dict[int, Tensor] = {}
        for part in gather(responses):
            whole |= part
        bad = [n // 2 for n, numbers in sorted(whole.items()) if not torch.isfinite(numbers).all()]
        if bad:
            raise UserError(
                f"--ref.precompute: the reference gives row {dataset.row_number(bad[0])} of the data a "
                f"log-probability that is not finite ({len(set(bad))} such pairs); look at "
                f"--ref.model_name_or_path"
            )
        return StoredLogps.of([whole[n] for n in range(2 * len(dataset))])

    def close(self) -> None:
        """Give the weights' memory back: DeepSpeed keeps lists of ZeRO-3's modules as long as it lives."""
        for tensor in (*self._actor.parameters(), *self._actor.buffers()):
            for held in (tensor, getattr(tensor, "ds_tensor", None)):
                if held is not None:
                    held.data = held.new_empty(0)

    def _dealt(self, dataset: IndexedPreferenceDataset) -> Iterator[list[int]]:
        """Micro-batches of this process, of similar lengths; every process has as many."""
        mesh = self._strategy.ds_device_mesh["dp"]
        replicas, size = mesh.size(), self._args.train.micro_batch_size
        order = sorted(range(len(dataset)), key=dataset.tokens, reverse=True)
        own = order[mesh.get_local_rank() :: replicas]
        most = -(-len(order) // replicas)
        own += order[:1] * (most - len(own))
        batches = [own[start : start + size] for start in range(0, most, size)]
        yield from tqdm(
            batches, "reference", disable=not self._strategy.is_rank_0(), mininterval=10.0, leave=False
        )

    def _laid_out(self, dataset: IndexedPreferenceDataset, pairs: list[int], device: torch.device) -> Batch:
        *tensors, lengths = dataset.collate_fn([dataset[pair] for pair in pairs])
        chosen_ids, c_mask, reject_ids, r_mask = (tensor.squeeze(1).to(device) for tensor in tensors)
        make = make_shared_batch if self._shares else make_padded_batch
        return make((chosen_ids, c_mask), (reject_ids, r_mask), lengths, packed=self._one_row)

    @torch.no_grad()
    def _rows(self, batch: Batch) -> Tensor:
        def call(**asked: Any) -> Any:
            with batch.running():
                return self._actor(batch.ids, attention_mask=batch.attention, return_output=True, **asked)

        return reference_logps.rows_of(self._runner.read(call, batch.window))
