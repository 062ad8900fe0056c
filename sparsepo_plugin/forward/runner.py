"""Run one model on a batch and take from it what a loss reads, at the response positions alone.

Three ways, each the fall-back of the one before: statistics from final hidden states (``auto``), the model's
own logits at the response positions (``rows``), the logits of all positions (``off``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.activations import Recorder, Site
from sparsepo_plugin.forward.block_states import BlockStates
from sparsepo_plugin.forward.head import CapturedStates, Compute, HeadHook
from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.sharding import Sharding, WholeModels
from sparsepo_plugin.forward.window import ResponseWindow

HeadMode = Literal["auto", "rows", "off"]
HEAD_MODES: tuple[HeadMode, ...] = get_args(HeadMode)
_WHOLE = WholeModels()


class ModelOutput(NamedTuple):
    """One model's view of a batch of pairs.

    Attributes:
      window: where the responses lie; everything below is cut to it.
      positions: rows of ``logits`` that predict the response tokens, [n], in row order.
      logits: [tokens, vocab]; None where the statistics come from the states.
      states: final hidden states that predict the response tokens, [n, hidden], or None.
      logit_map: what the model does after its head.
      head: the model's output head.
      hidden_states: of blocks 1..L, each [2 * pairs, width, hidden]; empty if not asked for.
      aux_loss: the model's own auxiliary loss, or 0.
      activations: feature means of the recorded sites, each [2 * pairs, width]; empty if not asked for.
      autocast: the dtype in which autocast had the head multiply, or None.
      final: final hidden states that predict the response tokens, [n, hidden]; None where nobody asked.
      values: the statistics themselves, each [n], where they were computed inside the pass.
    """

    window: ResponseWindow
    positions: Tensor
    logits: Tensor | None
    states: Tensor | None
    logit_map: LogitMap
    head: nn.Module | None
    hidden_states: tuple[Tensor, ...]
    aux_loss: Any = 0
    activations: Mapping[str, Tensor] = MappingProxyType({})
    autocast: torch.dtype | None = None
    final: Tensor | None = None
    values: tuple[Tensor, ...] = ()

    def first_rows(self, rows: int) -> ModelOutput:
        """The statistics' part of the first rows of the window."""
        window = ResponseWindow(*(value[:rows] for value in self.window))
        count = len(window.predicting()[0])
        states = None if self.states is None else self.states[:count]
        values = tuple(value[:count] for value in self.values)
        return self._replace(window=window, positions=self.positions[:count], states=states, values=values)


class ForwardRunner:
    """Runs a model, in the cheapest of the ways that it allows.

    Args:
      model: the transformers (or PEFT) model whose head and blocks are watched.
      mode: the first of HEAD_MODES to try.
      states: also take the hidden states of all blocks.
      final: also take the final hidden states.
      sites: places whose activations are recorded too, in the model inside a PEFT model.
      sharding: how the model is spread over processes.
      warn: prints one line, once, where the model does not allow the way asked for.
    """

    def __init__(
        self,
        model: Any,
        *,
        mode: HeadMode = "auto",
        states: bool = False,
        final: bool = False,
        sites: Sequence[Site] = (),
        sharding: Sharding = _WHOLE,
        warn: Callable[[str], Any] = print,
    ) -> None:
        self._name, self._warn = type(model).__name__, warn
        self._head_hook = HeadHook(model)
        self._recorded = model.get_base_model() if hasattr(model, "peft_config") else model
        self._sites, self._sharding = sites, sharding
        self.mode: HeadMode = mode
        if self._head_hook.head is None and mode != "off":
            self.fall_back("off", "it names no output head")
        elif mode == "auto" and not self._head_hook.plain():
            self.fall_back("rows", f"its output head is a {type(self._head_hook.head).__name__}")
        self._map: LogitMap | None = None
        self._want_states, self._want_final = states, final
        self._blocks = _blocks(model) if states and self.mode != "off" else None
        self._blocks_checked = False

    def read(self, call: Callable[..., Any], window: ResponseWindow) -> ModelOutput:
        """Run the model.

        Args:
          call: runs its forward pass with the given further keyword arguments, gives its output.
          window: where the responses lie in the model's layout.
        """
        with self._recording(window) as activations:
            output = self._read(call, window)
        return output._replace(activations=activations)

    def read_inside(
        self, call: Callable[..., Any], window: ResponseWindow, computing: Callable[[LogitMap], Compute]
    ) -> ModelOutput:
        """Run the model, with the statistics computed where it calls its head; arguments as ``read``.

        So they are part of the one forward pass that a framework which shards the model, or which looks for
        unused parameters, knows of. The first time the model also runs without gradients, for its logit map.

        Args:
          call: as above.
          window: as above.
          computing: gives for the model's logit map what its head shall compute.
        """
        if self.mode == "auto" and self._map is None:
            with torch.no_grad():
                self.read(call, window)
        if self.mode != "auto":
            return self.read(call, window)
        assert self._map is not None
        rows, columns = window.predicting()
        index = window.source[rows, columns]
        with self._head_hook.computing(index, computing(self._map)) as captured:
            output = call()
        # Hooks on the model's output act only where the loss depends on it.
        nothing = 0 * output["logits"].sum()
        values = tuple(value + nothing if value.requires_grad else value for value in captured.values)
        return ModelOutput(
            window, index, None, None, self._map, self._head_hook.head, (), _aux_loss(output),
            final=captured.hidden, values=values,
        )  # fmt: skip

    @contextmanager
    def _recording(self, window: ResponseWindow) -> Iterator[dict[str, Tensor]]:
        """Hooks for this pass only, because the same modules may also run the policy.

        They are set before the hook on the head, which cuts what the head is given to the responses.
        """
        activations: dict[str, Tensor] = {}
        if not self._sites:
            yield activations
            return
        recorder = Recorder(self._recorded, self._sites)
        try:
            yield activations
        finally:
            recorder.remove()
        means = self._sharding.mean_over_shards(recorder.take(), recorder.features)
        # One gather for all sites, which a model has hundreds of.
        cut = torch.stack(list(means.values()), -1).flatten(0, 1)[window.source]
        activations.update(zip(means, cut.unbind(-1)))

    def _read(self, call: Callable[..., Any], window: ResponseWindow) -> ModelOutput:
        rows, columns = window.predicting()
        index = window.source[rows, columns]
        with self._capturing(index) as captured:
            output, taken = self._call(call, window)
        if captured is not None and not self._understood(captured, output):
            return self._read(call, window)
        hidden_states = self._hidden_states(output, taken, captured, window)
        aux = _aux_loss(output)
        logits = None if self.mode == "auto" else output["logits"].flatten(0, 1)
        states = captured.hidden if self.mode == "auto" and captured is not None else None
        final = self._final(output, captured, index) if self._want_final else None
        if self.mode == "rows":
            index = torch.arange(len(index), device=index.device)
        head, autocast = self._head_hook.head, None if captured is None else captured.autocast
        logit_map = self._map or LogitMap()
        return ModelOutput(
            window, index, logits, states, logit_map, head, hidden_states, aux, autocast=autocast, final=final
        )

    def _final(self, output: Any, captured: CapturedStates | None, index: Tensor) -> Tensor:
        if captured is not None and captured.hidden is not None:
            return captured.hidden
        states: Tensor = output.hidden_states[-1].flatten(0, 1)
        return states[index]

    def _capturing(self, index: Tensor) -> AbstractContextManager[CapturedStates | None]:
        if self.mode == "off":
            return nullcontext()
        return self._head_hook.capturing(index, compute=self.mode == "rows")

    def _understood(self, captured: CapturedStates, output: Any) -> bool:
        """Whether the head did what the mode expects; if not, the next mode is set."""
        if captured.calls != 1 or captured.hidden is None:
            self.fall_back(
                "off", f"its output head is called {captured.calls} times, or not on [rows, seq, hidden]"
            )
            return False
        if self.mode == "auto" and self._map is None:
            self._map = captured.logit_map(output["logits"])
            if self._map is None:
                self.fall_back("rows", "what follows its output head is neither a scale nor a soft cap")
                return False
        return True

    def fall_back(self, mode: HeadMode, reason: str) -> None:
        """Go on in a later one of HEAD_MODES, and say why."""
        where = "at the response positions" if mode == "rows" else "of all positions"
        self._warn(f"{self._name}: {reason}; the loss reads its logits {where}")
        self.mode = mode

    def _call(self, call: Callable[..., Any], window: ResponseWindow) -> tuple[Any, list[Tensor]]:
        if not self._want_states:
            # Where the head is not watched, the model itself is asked for what stands before it.
            asked = {"output_hidden_states": True} if self._want_final and self.mode == "off" else {}
            return call(**asked), []
        if self._blocks is None:
            return call(output_hidden_states=True), []
        # The first time both ways run, so that what the hooks take is known to be the same.
        asked = {} if self._blocks_checked else {"output_hidden_states": True}
        with self._blocks.taking(window.take) as taken:
            return call(**asked), taken

    def _hidden_states(
        self, output: Any, taken: list[Tensor], captured: CapturedStates | None, window: ResponseWindow
    ) -> tuple[Tensor, ...]:
        if not self._want_states:
            return ()
        if self._blocks is not None and captured is not None and captured.everything is not None:
            hooked = (*taken, window.take(captured.everything.detach()))
            if self._blocks_checked:
                return hooked
            expected = tuple(window.take(state) for state in output.hidden_states[1:])
            self._blocks_checked = True
            if len(hooked) == len(expected) and all(map(torch.equal, hooked, expected)):
                return hooked
            self._blocks = None
            self._warn(f"{self._name}: its hidden states are not its blocks' outputs; it is asked for them")
            return expected
        return tuple(window.take(state) for state in output.hidden_states[1:])


def _aux_loss(output: Any) -> Any:
    return output.get("aux_loss", 0) if hasattr(output, "get") else getattr(output, "aux_loss", 0)


def _blocks(model: nn.Module) -> BlockStates | None:
    try:
        return BlockStates(model)
    except UserError:
        return None
