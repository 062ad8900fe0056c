"""The trained policy to the model hub, where ``--hub.push`` asks for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from sparsepo_plugin.checkpoint import MODEL_FILES
from sparsepo_plugin.errors import RunFailedError, UserError


def check(arguments: SimpleNamespace) -> None:
    """Refuse a repository that could not be written in the end, before anything is trained.

    Raises:
      UserError: no such name, nobody is logged in, or the hub cannot be reached.
    """
    name = arguments.hub.push
    if not name:
        return
    try:
        validate_repo_id(name)
        HfApi().whoami()
    except HFValidationError as error:
        raise UserError(f"--hub.push {name}: {_reason(error)}; expected ORGANISATION/NAME") from None
    # No token, one that is not valid, no network, or a client that is told to stay offline.
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"--hub.push {name}: the hub does not know who you are ({_reason(error)}); log in with "
            "`hf auth login`"
        ) from None


def push(arguments: SimpleNamespace) -> None:
    """Upload the policy and its mask module; metrics, token records and checkpoints stay where they are.

    Raises:
      RunFailedError: the hub did not take it; the folder has it all the same.
    """
    name, folder = arguments.hub.push, Path(arguments.ckpt.output_dir)
    if not name:
        return
    try:
        api = HfApi()
        api.create_repo(name, private=arguments.hub.private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=["*/*"],
            commit_message="Policy trained with SparsePO",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RunFailedError(
            f"--hub.push {name}: the upload failed ({_reason(error)}); the model is in {folder}, "
            f"send it with `hf upload {name} {folder}`"
        ) from None
    print(f"pushed {folder} to {name}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
