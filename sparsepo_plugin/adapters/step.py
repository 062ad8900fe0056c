"""A training step, the same under every trainer: both models, statistics, masks, loss, metrics.

A trainer lays out its batch and says how it calls its models; what it does with the loss is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsepo_plugin import metrics
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import RunFailedError
from sparsepo_plugin.forward.activations import Site
from sparsepo_plugin.forward.pair_statistics import Asked, inside_head, statistics
from sparsepo_plugin.forward.runner import ForwardRunner, HeadMode, ModelOutput
from sparsepo_plugin.forward.sharding import Sharding, WholeModels
from sparsepo_plugin.forward.window import ResponseWindow
from sparsepo_plugin.metrics import MetricSum
from sparsepo_plugin.types import LossOutput, Masks, ReferenceState, TokenStats

_WHOLE = WholeModels()


class StepResult(NamedTuple):
    """What a batch gave; statistics and masks are [2 * pairs, width - 1], chosen rows first."""

    stats: TokenStats
    masks: Masks
    output: LossOutput

    @property
    def loss(self) -> Tensor:
        """Mean over the pairs, a number."""
        return self.output.losses.mean()

    def finite(self) -> bool:
        """Whether the loss of every pair is."""
        return bool(torch.isfinite(self.output.losses.detach()).all())

    def metrics(
        self, beta: float, keep: Sequence[bool] | None = None, *, errors: bool = False
    ) -> dict[str, MetricSum]:
        """Metrics of the pairs.

        Args:
          beta: inverse temperature.
          keep: which pairs count, one entry each; default: all.
          errors: also what standard errors are computed from.
        """
        if keep is None:
            return metrics.pair_metrics(self.stats, self.masks, self.output, beta, errors=errors)
        pairs = torch.tensor(keep, device=self.output.losses.device)
        rows = torch.cat([pairs, pairs])
        stats, output = self.stats.rows(rows), self.output.rows(pairs)
        return metrics.pair_metrics(stats, self.masks.rows(rows), output, beta, errors=errors)


class PreferenceStep:
    """The two models of a run and what is computed from them.

    Args:
      objective: loss, options and sizes of the reference.
      policy: the transformers (or PEFT) model, without the trainer's wrappers.
      reference: the same of the reference; the policy itself where it stands for both.
      masks: the mask source.
      policy_mode: first of HEAD_MODES to try for the policy.
      reference_mode: the same for the reference.
      sites: where the reference's activations are recorded.
      sharding: how the models are spread over processes.
      inside: whether the policy's statistics must be computed inside its forward pass; the reference then
        runs first.
      warn: prints one line.
    """

    def __init__(
        self,
        objective: ConfiguredLoss,
        policy: Any,
        reference: Any,
        masks: nn.Module,
        *,
        policy_mode: HeadMode = "auto",
        reference_mode: HeadMode = "auto",
        sites: Sequence[Site] = (),
        sharding: Sharding = _WHOLE,
        inside: bool = False,
        warn: Callable[[str], Any] = print,
    ) -> None:
        self.objective, self.masks, self._sharding, self._inside = objective, masks, sharding, inside
        final = objective.needs.policy_states
        self._policy = ForwardRunner(policy, mode=policy_mode, final=final, warn=warn)
        self._policy_with_logits = ForwardRunner(policy, mode="off", final=final, warn=warn)
        self._reference = ForwardRunner(
            reference,
            mode=reference_mode,
            states=objective.needs.hidden_states,
            sites=sites,
            sharding=sharding,
            warn=warn,
        )

    def run_policy(
        self,
        call: Callable[..., Any],
        window: ResponseWindow,
        *,
        all_logits: bool = False,
        reference: ModelOutput | None = None,
        evaluating: bool = False,
    ) -> ModelOutput:
        """Run the policy.

        Args:
          call: runs its forward pass with the given further keyword arguments, gives its output.
          window: where the responses lie.
          all_logits: the trainer wants the output with the logits of all positions.
          reference: what ``run_reference`` gave, where it ran first.
          evaluating: as ``evaluate``.
        """
        if self._inside and not (reference is None or reference.states is not None):
            if self._policy.mode == "auto":
                self._policy.fall_back("rows", "the reference's logits are read")
        elif self._inside and not all_logits:
            asked = self._asked(reference, evaluating=evaluating)
            return self._policy.read_inside(
                call, window, lambda output: inside_head(window, output, reference, asked, self._sharding)
            )
        return (self._policy_with_logits if all_logits else self._policy).read(call, window)

    @torch.no_grad()
    def run_reference(self, call: Callable[..., Any], window: ResponseWindow) -> ModelOutput | None:
        """Run the reference, where the loss needs one; arguments as ``run_policy``."""
        return self._reference.read(call, window) if self.objective.needs.reference else None

    def evaluate(
        self,
        policy: ModelOutput,
        reference: ModelOutput | None,
        beta: float,
        *,
        evaluating: bool,
        token_weights: Tensor | None = None,
        reference_logps: Tensor | None = None,
    ) -> StepResult:
        """Statistics, masks and loss of a batch.

        Args:
          policy: what ``run_policy`` gave.
          reference: what ``run_reference`` gave.
          beta: inverse temperature.
          evaluating: an evaluation measures the KL of every loss with a reference, so that losses compare.
          token_weights: of the data, as in TokenStats; only where the loss needs them.
          reference_logps: as in TokenStats, where they were computed before and no reference ran.
        """
        needs = self.objective.needs
        asked = self._asked(reference, evaluating=evaluating)
        # The loss is computed in float32 whatever the models ran in; autocast would undo that.
        with torch.autocast(policy.window.labels.device.type, enabled=False):
            stats = statistics(
                policy,
                reference,
                with_kl=asked.kl,
                with_entropy=asked.entropy,
                with_states=needs.policy_states,
                sharding=self._sharding,
            )
            stats = stats._replace(token_weights=token_weights)
            if reference_logps is not None:
                stats = stats._replace(reference_logps=reference_logps)
            seen = policy if reference is None else reference
            masks = self.masks(
                ReferenceState(
                    seen.hidden_states,
                    stats.response_mask,
                    seen.window.token_ids,
                    seen.activations,
                    token_weights,
                )
            )
            output = self.objective.evaluate(stats, masks, beta)
            return StepResult(stats, output.shown(masks), output)

    def _asked(self, reference: ModelOutput | None, *, evaluating: bool) -> Asked:
        needs = self.objective.needs
        return Asked(needs.token_kl or (evaluating and reference is not None), needs.entropy)


def gather(value: Any) -> list[Any]:
    """A value of every process, in order of their ranks; of this one alone without torch.distributed."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def not_finite(step: int, *, training: bool, where: str = "") -> RunFailedError:
    """The error for a loss that is not finite; to be raised by all processes together.

    Args:
      step: the training step, from 1, or after which the evaluation is.
      training: false in an evaluation.
      where: processes and pairs, where they are known.
    """
    stage = f"training at step {step}" if training else f"evaluation after step {step}"
    look = "these pairs" if where else "the data"
    return RunFailedError(
        f"loss is not finite in {stage}{where and f' ({where})'}: stopped before the update, the last "
        f"checkpoint is kept; lower the learning rate or look at {look}"
    )
