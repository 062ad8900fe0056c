"""The rows of the table: what is run, by the trainer's own code around one pair of models.

Trainers run without DeepSpeed's engine: every row has the same models and the same torch AdamW, and calls
forward, loss and backward as OpenRLHF's fit() does.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step.bare import BETA, SEED, Bare, PlainSparsePO, objective_of
from benchmarks.step.models import Models
from benchmarks.step.workloads import END, PAD, PairBatch, Step, by_length, sizes
from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

BASE, FULL, OURS = "openrlhf dpo", "sparsepo, full logits", "sparsepo"


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
      name: as printed.
      computes: rows with the same word give the same loss, which the benchmark checks.
      argv: flags of `sparsepo train`, for a row of ours.
      build: makes the function from a batch to its loss, and what is trained beside the policy.
      sorted: micro-batches of similar pairs, as --data.length_batching.
    """

    name: str
    computes: str
    argv: tuple[str, ...] = ()
    build: Callable[[Models, tuple[str, ...]], Any] | None = None
    sorted: bool = False


class _NoStrategy(SimpleNamespace):
    """Stands for the strategy; whatever else a trainer tells it around a step is of no effect here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def load() -> None:
    """Import what the rows use, once, before processes are forked."""
    import_openrlhf()
    importlib.import_module("openrlhf.trainer.dpo_trainer")
    importlib.import_module("sparsepo_plugin.adapters.openrlhf.trainer")
    importlib.import_module("sparsepo_plugin.adapters.openrlhf.dataset")
    importlib.import_module("sparsepo_plugin.adapters.openrlhf.data_order")
    if importlib.util.find_spec("trl") is not None:
        importlib.import_module("trl").DPOTrainer  # noqa: B018  loaded when it is looked up


def _trainer_options(models: Models, argv: tuple[str, ...]) -> dict[str, Any]:
    from openrlhf.models import Actor

    strategy = _NoStrategy(
        args=flags.parse(list(argv)).arguments, seed=SEED, world_size=1, ring_attn_group=None, stage=0,
        is_rank_0=lambda: True, _unwrap_model=lambda model: model.model, print=print,
    )  # fmt: skip
    actors = [Actor(model) for model in models]
    for actor in actors:
        actor.packing_samples = False  # upstream sets it only where it loads the model itself
    unused = dict.fromkeys(("optim", "train_dataloader", "eval_dataloader", "scheduler"), None)
    return {
        "model": actors[0], "ref_model": actors[1], "strategy": strategy, "beta": BETA,
        "tokenizer": SimpleNamespace(pad_token_id=PAD), **unused,
    }  # fmt: skip


class ByOpenRLHF:
    """The part of upstream's fit() from a batch to its loss, on a trainer of its interface."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.mask_source: nn.Module = getattr(trainer, "mask_source", nn.Identity())

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean loss of the pairs."""
        trainer = self._trainer
        rows = (*batch.chosen, *batch.rejected, self._prompts(batch))
        chosen, rejected, _, _ = trainer.concatenated_forward(trainer.model, *rows)
        with torch.no_grad():
            other_chosen, other_rejected, _, _ = trainer.concatenated_forward(trainer.ref_model, *rows)
        found: Tensor = trainer.loss_fn(chosen, rejected, other_chosen, other_rejected)[0]
        return found

    @staticmethod
    def _prompts(batch: PairBatch) -> list[Any]:
        from sparsepo_plugin.adapters.openrlhf.dataset import PromptLength

        return [PromptLength(length, index) for index, length in enumerate(batch.prompts)]


def _upstream(models: Models, argv: tuple[str, ...]) -> ByOpenRLHF:
    options = _trainer_options(models, argv)
    from openrlhf.trainer.dpo_trainer import DPOTrainer

    return ByOpenRLHF(DPOTrainer(**options))


def _ours(models: Models, argv: tuple[str, ...]) -> ByOpenRLHF:
    options = _trainer_options(models, argv)
    from sparsepo_plugin.adapters.openrlhf.trainer import PreferenceTrainer

    name = argv[argv.index("--loss") + 1]
    return ByOpenRLHF(PreferenceTrainer(objective=objective_of(name, models), **options))


def _plain(models: Models, _: tuple[str, ...]) -> PlainSparsePO:
    return PlainSparsePO(models, objective_of("sparsepo", models))


class ByTRL(Bare):
    """TRL's own trainer: its collator and its compute_loss."""

    def __init__(self, models: Models, _: tuple[str, ...]) -> None:
        from datasets import Dataset
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast
        from trl import DPOConfig, DPOTrainer

        words = Tokenizer(WordLevel({"<pad>": PAD, "<end>": END, "a": 2}, unk_token="<pad>"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<pad>"
        )
        settings = DPOConfig(
            output_dir=tempfile.mkdtemp(), beta=BETA, use_cpu=models.policy.device.type == "cpu", bf16=False,
            gradient_checkpointing=False, report_to=[], disable_tqdm=True, max_length=None,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a"}])
        self._trainer = DPOTrainer(
            models.policy, models.reference, settings, train_dataset=data, processing_class=tokenizer
        )
        self.models, self._policy, self.mask_source = models, models.policy, nn.Identity()

    def loss(self, batch: PairBatch) -> Tensor:
        """Mean loss of the pairs."""
        examples = []
        for *sides, prompt in zip(*batch.chosen, *batch.rejected, batch.prompts):
            chosen, rejected = (ids[mask.bool()].tolist() for ids, mask in (sides[:2], sides[2:]))
            examples.append(
                {
                    "prompt_ids": chosen[:prompt],
                    "chosen_ids": chosen[prompt:],
                    "rejected_ids": rejected[prompt:],
                }
            )
        found: Tensor = self._trainer.compute_loss(self._policy, self._inputs(examples))
        return found

    def _inputs(self, examples: list[Any]) -> dict[str, Any]:
        device = self._policy.device
        return {name: value.to(device) for name, value in self._trainer.data_collator(examples).items()}


def _sparse(name: str, *argv: str, sorted: bool = False) -> Variant:
    return Variant(name, "sparsepo", ("--loss", "sparsepo", "--sparsepo.anchor", "0", *argv), _ours, sorted)


LOGITS, TWO_ROWS = ("--perf.head", "off"), ("--perf.prefix", "off")
VARIANTS = {
    row.name: row
    for row in (
        Variant(BASE, "dpo", (), _upstream),
        Variant("trl dpo", "dpo", (), ByTRL),
        Variant(FULL, "sparsepo", (), _plain),
        _sparse(OURS),
        _sparse("sparsepo, sorted by length", sorted=True),
        _sparse("sparsepo, head at responses", "--perf.head", "rows"),
        _sparse("sparsepo, logits of all tokens", *LOGITS),
        _sparse("sparsepo, two rows", *TWO_ROWS),
        _sparse("sparsepo, logits, two rows", *LOGITS, *TWO_ROWS),
        Variant("tdpo1 (no mask)", "tdpo1", ("--loss", "tdpo1"), _ours),
        Variant("dpo (no mask, no kl)", "dpo", ("--loss", "dpo"), _ours),
        Variant("mapo", "mapo", ("--loss", "mapo"), _ours),
    )
}


class Runner:
    """One row with its models and its optimizer."""

    def __init__(self, variant: Variant, models: Models) -> None:
        assert variant.build is not None
        self._sorted, self._made = variant.sorted, variant.build(models, variant.argv)
        trained = [*models.policy.parameters(), *self._made.mask_source.parameters()]
        self._optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=1e-6)

    def step(self, step: Step) -> float:
        """An optimizer step: forward of both models, loss and backward per micro-batch, update; the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in self._dealt(step):
            loss = self._made.loss(batch) * (len(batch.prompts) / sum(len(b.prompts) for b in step))
            loss.backward()
            total += loss.item()
        self._optimizer.step()
        return total

    def _dealt(self, step: Step) -> Step:
        if not self._sorted:
            return step
        from sparsepo_plugin.adapters.openrlhf.data_order import StepSampler

        found, micro = sizes(step), len(step[0].prompts)
        shape = {"epochs": 1, "step": len(found), "micro_batch": micro, "num_replicas": 1, "rank": 0}
        sampler = StepSampler(len(found), **shape, seed=SEED, sizes=found)
        return by_length(step, list(sampler))
