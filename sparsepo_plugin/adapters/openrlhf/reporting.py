"""Which trackers a run reports to, from its arguments."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import yaml

from sparsepo_plugin import config
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import trackers
from sparsepo_plugin.run_folder.trackers import Run, Trackers

TENSORBOARD = "tensorboard"  # a folder in that of the results


def check(arguments: SimpleNamespace) -> None:
    """Refuse trackers that could not be reported to.

    Raises:
      UserError: a package is missing, or upstream's own loss, whose metrics we do not see.
    """
    names = arguments.logger.report_to
    if names and arguments.loss is None:
        raise UserError(
            "--logger.report_to: got upstream's own loss, expected --loss NAME; upstream itself takes "
            "--logger.tensorboard_dir and --logger.wandb.key"
        )
    trackers.check(names)


def build(arguments: SimpleNamespace) -> Trackers:
    """The trackers of a run; none is started before the first number."""
    logger = arguments.logger
    run = Run(
        project=logger.wandb.project,
        name=logger.wandb.run_name,
        configuration=dict(config.flatten(yaml.safe_load(config.dump(arguments)))),
        folder=Path(arguments.ckpt.output_dir) / TENSORBOARD,
    )
    return Trackers(logger.report_to, run, logger.logging_steps)
