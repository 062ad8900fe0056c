"""The plugin: checks the configuration, puts our trainer in upstream's place, saves the mask module.

Nothing of ``axolotl.core`` may be imported here: its training arguments are put together, once, when that is
first imported, and would lack ours.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin

from sparsepo_plugin.adapters.axolotl.keys import looks_ours
from sparsepo_plugin.errors import UserError, report

TRAINER = "sparsepo_plugin.adapters.axolotl.trainer.AxolotlSparsePOTrainer"
_REQUIRED = ("torch", "safetensors", "pydantic", "accelerate", "transformers", "trl")


@contextmanager
def stopping_the_run() -> Iterator[None]:
    """Turn an error that the user can mend into one line and the end of the process.

    Raises:
      SystemExit: with the error's exit code; Axolotl lets it pass, and no traceback is printed.
    """
    try:
        yield
    except UserError as error:
        report(error)
        raise SystemExit(error.exit_code) from None


class SparsePOPlugin(BasePlugin):
    """Axolotl's hooks, in the order in which they are called.

    From 0.21 on Axolotl loads it for every configuration, because it is installed. It does nothing unless the
    configuration names it or has one of its keys.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wanted = False
        self._trainer: Any = None

    def register(self, cfg: Any) -> None:
        """Check the raw configuration and name our trainer in it.

        ``trainer_cls`` is the route that keeps policy and reference; upstream's hook for plugins drops both.

        Args:
          cfg: the configuration as read from the file.

        Raises:
          SystemExit: a package is missing, or the configuration cannot be trained.
        """
        self._wanted, self._trainer = _wanted(cfg), None
        if not self._wanted:
            return
        with stopping_the_run():
            _require_packages()
            from sparsepo_plugin.adapters.axolotl import settings
            from sparsepo_plugin.adapters.trl.versions import untested

            warnings = [untested(name) for name in ("axolotl", "trl")]
            chosen = settings.check(cfg, TRAINER)
        cfg["trainer_cls"] = TRAINER
        if os.environ.get("RANK", "0") == "0":
            print("\n".join([*filter(None, warnings), f"SparsePO: preference_loss {chosen}"]), flush=True)

    def get_input_args(self) -> str | None:
        """Our keys of the configuration file, for upstream's validation."""
        return "sparsepo_plugin.adapters.axolotl.settings.SparsePOArgs" if self._wanted else None

    def get_training_args_mixin(self) -> str | None:
        """Our training arguments."""
        return "sparsepo_plugin.adapters.trl.arguments.PreferenceArguments" if self._wanted else None

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        """Our training arguments' values."""
        if not cfg.get("preference_loss"):
            return None
        from sparsepo_plugin.adapters.axolotl import settings

        return settings.training_arguments(cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Keep the trainer, whose mask module the final save does not know of.

        Raises:
          SystemExit: another plugin has put its own trainer in.
        """
        if not cfg.get("preference_loss"):
            return
        with stopping_the_run():
            if not hasattr(trainer, "mask_training"):
                raise UserError(
                    f"trainer: got {type(trainer).__module__}.{type(trainer).__name__}, expected {TRAINER}; "
                    f"another plugin has chosen it: drop that plugin"
                )
        self._trainer = trainer

    def post_train(self, cfg: Any, model: Any) -> None:
        """Save the mask module beside the final model; called before and after that is saved."""
        if self._trainer is not None and self._trainer.is_world_process_zero():
            os.makedirs(cfg.output_dir, exist_ok=True)
            from sparsepo_plugin import checkpoint

            self._trainer.mask_training.save(cfg.output_dir)
            if hasattr(self._trainer.model, "peft_config"):
                drop_unmerged_weights(Path(cfg.output_dir))
                name_as_peft(Path(cfg.output_dir))
            else:
                checkpoint.remove_adapter(Path(cfg.output_dir))

    def post_train_unload(self, cfg: Any) -> None:
        """Say what was reached and where it is: Axolotl's last call, when everything is saved."""
        trainer, self._trainer = self._trainer, None
        if trainer is None or not trainer.is_world_process_zero():
            return
        from sparsepo_plugin.run_folder import closing

        said = closing.lines(
            Path(cfg.output_dir), cfg.base_model, cfg.preference_loss, trainer.moments.seconds,
            names=closing.AXOLOTL,
        )  # fmt: skip
        print("\n".join(said), flush=True)


def _wanted(cfg: Any) -> bool:
    """Whether a raw configuration names the plugin or has one of its keys, misspelt ones included."""
    named = any(str(name).endswith(SparsePOPlugin.__name__) for name in cfg.get("plugins") or [])
    return named or any(looks_ours(str(key)) for key in cfg)


def drop_unmerged_weights(folder: Path) -> None:
    """Remove what upstream saves after preference training with LoRA besides the adapter itself.

    That is the base model with the adapter's layers in it, under names that no model has: transformers would
    load the folder as a model whose layers are random. The adapter is complete without it.
    """
    from safetensors import safe_open

    weights = sorted(folder.glob("model*.safetensors"))
    names: list[str] = []
    for path in weights:
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    if any(".base_layer." in name for name in names):
        for path in (*weights, folder / "model.safetensors.index.json"):
            path.unlink(missing_ok=True)


_PREFIX = "base_model.model."


def name_as_peft(folder: Path) -> None:
    """Give an adapter's weights the names that PEFT reads.

    Under FSDP2 Axolotl 0.19 leaves off what they begin with. PEFT passes such names by, with a warning: the
    adapter would load and do nothing.
    """
    from safetensors.torch import load_file, save

    from sparsepo_plugin import files

    path = folder / "adapter_model.safetensors"
    state = load_file(path) if path.is_file() else {}
    if state and not any(name.startswith(_PREFIX) for name in state):
        named = {_PREFIX + name: value for name, value in state.items()}
        files.write_bytes(path, save(named, {"format": "pt"}))


def _require_packages() -> None:
    """Raise a UserError that names the first package that is missing or unusable."""
    remedy = 'install them with: pip install "sparsepo[axolotl]"'
    for name in _REQUIRED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the plugin SparsePOPlugin needs {', '.join(_REQUIRED)}: got no usable {name} ({reason}); "
                f"{remedy}"
            ) from None
