"""Trackers that a run reports to beside its metrics.jsonl: TensorBoard, Weights & Biases, trackio, MLflow.

Each is an optional package, imported when it is asked for. A tracker that fails during a run is left out from
then on, with a warning: no training ends for want of a dashboard.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin.errors import UserError


class Run(NamedTuple):
    """What a tracker is told of a run when it starts.

    Attributes:
      project: experiments that belong together.
      name: of the run.
      configuration: effective configuration with dotted keys.
      folder: where TensorBoard's files go.
    """

    project: str
    name: str
    configuration: Mapping[str, Any]
    folder: Path


class Tracker(NamedTuple):
    """A started tracker: what takes the numbers of a step, and what ends it."""

    log: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


def _tensorboard(run: Run) -> Tracker:
    writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(log_dir=str(run.folder))

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Tracker(log, writer.close)


def _wandb(run: Run) -> Tracker:
    wandb: Any = importlib.import_module("wandb")
    wandb.init(project=run.project, name=run.name, config=dict(run.configuration))
    # Evaluations come after the metrics of their step, which W&B's own counter would refuse.
    wandb.define_metric("global_step")
    wandb.define_metric("*", step_metric="global_step")
    return Tracker(lambda values, step: wandb.log({**values, "global_step": step}), wandb.finish)


def _trackio(run: Run) -> Tracker:
    trackio: Any = importlib.import_module("trackio")
    trackio.init(project=run.project, name=run.name, config=dict(run.configuration))
    return Tracker(lambda values, step: trackio.log(values, step=step), trackio.finish)


def _mlflow(run: Run) -> Tracker:
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_experiment(run.project)
    mlflow.start_run(run_name=run.name)
    mlflow.log_params({key: value for key, value in run.configuration.items() if value is not None})
    return Tracker(lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run)


_STARTED_BY = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}
NAMES = tuple(_STARTED_BY)


def check(names: Iterable[str]) -> None:
    """Refuse a tracker whose package is absent.

    Raises:
      UserError: there is one.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--logger.report_to {name}: the package {name} is not installed; install it, or drop it"
            )


class Trackers:
    """The trackers of one run, started when the first number is logged.

    Args:
      names: some of NAMES; empty: none.
      run: what they are told.
      every: steps between two reports of the training; evaluations are all reported.
    """

    def __init__(self, names: Iterable[str], run: Run, every: int = 1) -> None:
        self._waiting, self._run, self._every = list(dict.fromkeys(names)), run, max(1, every)
        self._started: dict[str, Tracker] = {}

    def log(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Report the numbers of a step as ``split/name``; what is no finite number is left out."""
        for name in self._waiting:
            self._guarded(name, functools.partial(self._start, name))
        self._waiting = []
        if split == "train" and step % self._every:
            return
        numbers = {
            f"{split}/{key}": float(value)
            for key, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for name, tracker in list(self._started.items()):
            self._guarded(name, functools.partial(tracker.log, numbers, step))

    def _start(self, name: str) -> None:
        self._started[name] = _STARTED_BY[name](self._run)

    def close(self) -> None:
        """End all of them."""
        for name, tracker in list(self._started.items()):
            self._guarded(name, tracker.close)
        self._started = {}

    def _guarded(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        # Whatever a tracker raises, from its network to its disk, the training is not its business.
        except Exception as error:
            self._started.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            print(f"warning: {name} is left out from now on: {reason}; metrics.jsonl has every step")
