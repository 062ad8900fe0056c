"""Which pairs an optimizer step sees: the epochs form one stream, and step k takes the k-th batch of it.

Upstream counts whole batches per epoch but lets a step reach into the next epoch, so that a resumed run
starts at another pair than it stopped at; it also drops pairs that fill no micro-batch of every process. Here
a step's pairs follow from seed and step alone, whatever the number of processes and the micro-batch. Only
what is left after the last whole batch of all epochs reaches no step.

With ``--data.length_batching`` a step's pairs are sorted by size and cut into micro-batches of similar pairs,
which run in a random order. The gradient of a step is a mean over pairs: it changes by no more than rounding.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from openrlhf.trainer import dpo_trainer
from openrlhf.trainer.dpo_trainer import DPOTrainer
from openrlhf.utils.deepspeed import DeepspeedStrategy
from openrlhf.utils.distributed_sampler import DistributedSampler
from torch import Tensor

from sparsepo_plugin.adapters.openrlhf import places, stopping
from sparsepo_plugin.adapters.openrlhf.progress import Progress, shown
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.patched import patched


class OrderedLoading(DeepspeedStrategy):
    """Upstream's strategy; the training set is dealt by StepSampler.

    Attributes:
      steps: optimizer steps of the whole run; 0 before the training set is known.
    """

    steps = 0

    def setup_dataloader(
        self,
        replay_buffer: Any,
        batch_size: int,
        pin_memory: bool = False,
        shuffle: bool = True,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Upstream's loader; with StepSampler where the set is to be shuffled.

        Raises:
          UserError: the pairs of all epochs fill no batch.
        """
        if shuffle:
            group = self.ds_device_mesh["dp"].get_group()
            sampler = StepSampler(
                len(replay_buffer),
                epochs=self.args.train.max_epochs,
                step=self.args.train.batch_size,
                micro_batch=batch_size,
                num_replicas=dist.get_world_size(group=group),
                rank=dist.get_rank(group=group),
                seed=self.seed,
                sizes=getattr(replay_buffer, "sizes", None),
            )
            self.steps, options["sampler"] = sampler.steps, sampler
            self.print(sampler.describe())
        return super().setup_dataloader(replay_buffer, batch_size, pin_memory, shuffle, *args, **options)

    def _ds_init_train_model(self, model: Any, cfg: dict[str, Any]) -> Any:
        """Upstream's; the schedule has as many steps as the run, not the whole batches of single epochs."""
        return super()._ds_init_train_model(model, {**cfg, "scheduler_steps": self.steps})


class OrderedTrainer(DPOTrainer):
    """Upstream's trainer over the whole stream, which its loop takes for one epoch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.strategy.is_rank_0():
            places.begin(self.args)  # the models are loaded: little is left that could go wrong

    def fit(
        self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None
    ) -> None:
        """Upstream's loop, by default with an evaluation before it; one "once per epoch" stays one."""
        sampler, done = self.train_dataloader.sampler, consumed_samples // args.train.batch_size
        if args.eval.steps == -1:
            args.eval.steps = sampler.steps_per_epoch
        self.epochs = 1
        with stopping.listening() as self._stop, self._one_bar(sampler.steps, done):
            if args.eval.at_start and not done and self.eval_dataloader:
                self.ref_model.eval()
                self.evaluate(self.eval_dataloader, 0)
            super().fit(args, consumed_samples, sampler.steps)

    @contextmanager
    def _one_bar(self, steps: int, done: int) -> Iterator[None]:
        self._bar = Progress(steps, done, active=self.strategy.is_rank_0())
        try:
            with patched(dpo_trainer, tqdm=self._bar.in_place_of_tqdm):
                yield
        finally:
            self._bar.close()

    def evaluate(self, eval_dataloader: Any, steps: int = 0) -> None:
        """Upstream's; it draws no number of the training's random sequence, and says what it found."""
        device = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(device):
            super().evaluate(eval_dataloader, steps)
        found = ", ".join(f"{name} {value}" for name, value in shown(self.evaluated(steps)).items())
        self.strategy.print(f"evaluation after step {steps}: {found}")

    def evaluated(self, steps: int) -> Mapping[str, float]:
        """What the evaluation that has just ended found."""
        return self._bar.evaluation

    def save_logs_and_checkpoints(
        self, args: Any, global_step: int, step_bar: Any, logs_dict: Any = None, client_states: Any = None
    ) -> None:
        """Upstream's, the last step always with an evaluation; a signal to any process ends the training.

        Raises:
          StoppedError: there was a signal, and steps are left; there is a last checkpoint.
        """
        self._bar.step(logs_dict)
        last = global_step == self.train_dataloader.sampler.steps
        if last and args.eval.at_end and self.eval_dataloader and global_step % args.eval.steps:
            self.evaluate(self.eval_dataloader, global_step)
        super().save_logs_and_checkpoints(args, global_step, step_bar, logs_dict, client_states)
        number = self._stop.number
        if self.strategy.world_size > 1:
            number = int(self.strategy.all_reduce(float(number), op="max"))
        if not number or last:
            return
        said = "no checkpoint was written, as --ckpt.save_steps asks for none"
        if places.saves(args) and not args.ckpt.disable_ds:
            if global_step % args.ckpt.save_steps:
                tag, limits = f"global_step{global_step}", (args.ckpt.max_num, args.ckpt.max_mem)
                self.strategy.save_ckpt(self.model.model, args.ckpt.path, tag, *limits, client_states)
            said = f"its checkpoint is in {args.ckpt.path}, go on with --resume"
        name = signal.Signals(number).name
        raise stopping.StoppedError(number, f"stopped by {name} after step {global_step}: {said}")

    def concatenated_forward(self, model: Any, *batch: Any) -> Any:
        """Upstream's; the random sequence of a resumed run goes on at its first training pass."""
        if self.model.training:
            # Not before: the data loader has drawn once more than that of the run that was saved.
            self.strategy.restore_random_state()
        return super().concatenated_forward(model, *batch)


class StepSampler(DistributedSampler):
    """Deals every optimizer step's pairs to the processes, in whole micro-batches.

    An epoch's order is upstream's. It goes on from ``consumed_samples``, as set by ``set_epoch``.

    Args:
      pairs: of the training set.
      epochs: times that every pair is drawn, the remainder left out.
      step: pairs of all processes per optimizer step, a multiple of micro_batch * num_replicas.
      micro_batch: pairs of a process per forward pass.
      num_replicas: processes that hold different pairs.
      rank: this process's number among them.
      seed: of the order.
      sizes: of the pairs, in tokens or any unit, for micro-batches of similar size; None: in the order drawn.

    Raises:
      UserError: the pairs of all epochs fill no batch.
    """

    def __init__(
        self,
        pairs: int,
        *,
        epochs: int,
        step: int,
        micro_batch: int,
        num_replicas: int,
        rank: int,
        seed: int,
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(range(pairs), num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self._epochs, self._step, self._micro_batch = epochs, step, micro_batch
        self._sizes = None if sizes is None else torch.tensor(sizes)
        self.steps = epochs * pairs // step
        self.steps_per_epoch = max(1, pairs // step)
        self.num_samples = self.steps * step // num_replicas
        self.total_size = self.steps * step
        if not self.steps:
            raise UserError(
                f"{pairs} pairs in {epochs} epochs: got fewer than one batch of {step}; add data, or lower "
                "--train.batch_size"
            )

    def describe(self) -> str:
        """One line: the pairs, the steps, and what reaches no step."""
        pairs, left = len(self.dataset), self._epochs * len(self.dataset) - self.total_size
        epochs = f"{self._epochs} epoch{'s' if self._epochs > 1 else ''}"
        said = f"{pairs} pairs in {epochs}: {self.steps} steps of {self._step}"
        if not left:
            return said
        return f"{said}; the last {left} of {self._epochs * pairs} draws fill no batch and reach no step"

    def __iter__(self) -> Iterator[int]:
        """Indices of this process's pairs from ``consumed_samples`` on; the loader cuts micro-batches."""
        done = self.consumed_indicies * self.num_replicas // self._step
        for number, pairs in islice(enumerate(self._batches()), done, self.steps):
            yield from self._dealt(pairs, number).tolist()

    def _batches(self) -> Iterator[Tensor]:
        """Pairs of every optimizer step, [step]."""
        left = torch.empty(0, dtype=torch.long)
        for epoch in range(self._epochs):
            generator = torch.Generator().manual_seed(self.seed + epoch)
            left = torch.cat([left, torch.randperm(len(self.dataset), generator=generator)])
            whole = len(left) // self._step * self._step
            yield from left[:whole].view(-1, self._step)
            left = left[whole:]

    def _dealt(self, pairs: Tensor, number: int) -> Tensor:
        """This process's pairs of a step, whole micro-batches one after the other."""
        if self._sizes is None:
            return pairs[self.rank :: self.num_replicas]
        ordered = pairs[self._sizes[pairs].argsort(stable=True)]
        turns = ordered.view(-1, self.num_replicas, self._micro_batch)
        # The seed of a step, apart from those of the epochs' orders.
        generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + number)
        turns = turns[torch.randperm(len(turns), generator=generator)]
        return turns[:, self.rank].flatten()
