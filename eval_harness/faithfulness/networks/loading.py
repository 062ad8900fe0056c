"""Models of scorers in a local folder or the hub's cache, never fetched: checked, hashed, run in batches."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_harness.errors import UserError, first_line
from eval_harness.faithfulness.examples import Device
from eval_harness.models.engines import resolve_device
from eval_harness.models.identity import TOKENIZER_FILES, hash_files
from eval_harness.models.module_names import beyond_the_layers
from eval_harness.models.weight_files import weight_files

# Position tables of these begin behind the padding id: two positions are never used.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "ibert")


def find_model(name: str, scorer: str, option: str = "model") -> Path:
    """Folder of a model given as a local folder or a hub name.

    Raises:
      UserError: not there (with the command that fetches it), or incomplete.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        weight_files(path)
        return path.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"scorer {scorer}: no such model folder",
            got=name,
            expected="a folder with config.json, or a hub name",
            remedy=f"--scorer-option {option}=DIR",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        weight_files(cached)
        return cached
    except (LocalEntryNotFoundError, HFValidationError, UserError) as error:
        local = f"models/{name.rsplit('/', maxsplit=1)[-1]}"
        raise UserError(
            f"scorer {scorer}: its model is not on this machine",
            got=f"{name} is neither a folder nor whole in the hub's cache",
            expected="the model's files",
            remedy=f"hf download {name}; or hf download {name} --local-dir {local} on a machine with "
            f"network, copy the folder, and --scorer-option {option}={local}",
        ) from error


@functools.cache
def model_hash(folder: Path) -> str:
    """Content of a model: weights, configuration, tokenizer. Sha256, hex."""
    files = [*weight_files(folder), folder / "config.json"]
    return hash_files([*files, *(p for p in (folder / name for name in TOKENIZER_FILES) if p.is_file())])


class Loaded(NamedTuple):
    """A model in evaluation mode, its tokenizer, and the longest input it takes, in tokens."""

    model: Any
    tokenizer: Any
    longest: int


def read_config(folder: Path, scorer: str) -> Any:
    """A model's configuration. Raises UserError where it cannot be read."""
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(str(folder))
    except Exception as error:  # unknown architecture, bad values: many types, one meaning
        raise UserError(
            f"scorer {scorer}: the model's config cannot be read",
            got=f"{folder.name}: {first_line(error)}",
            expected="config.json of a known architecture",
        ) from error


def longest_input(config: Any, tokenizer: Any) -> int:
    """Tokens that fit, special ones included; the smaller of what model and tokenizer say."""
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        offset = int(config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
        limits.append(positions - offset)
    elif isinstance(getattr(config, "n_positions", None), int):
        limits.append(int(config.n_positions))
    return min(limits)


def load(folder: Path, auto_class: str, scorer: str, run_on: Device, **tokenizer_options: Any) -> Loaded:
    """Load a model and its tokenizer from a folder; no code of the model's own is run.

    Raises:
      UserError: not of this kind, tensors missing, or a tokenizer that cannot pad.
    """
    import torch
    import transformers

    config = read_config(folder, scorer)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **tokenizer_options)
        model, info = getattr(transformers, auto_class).from_pretrained(
            str(folder), dtype=getattr(torch, run_on.dtype), output_loading_info=True
        )
    except Exception as error:  # transformers raises many types; all are about these files
        raise UserError(
            f"scorer {scorer}: the model cannot be loaded",
            got=f"{folder.name}: {first_line(error)}",
            expected=auto_class,
            remedy="save the model and its tokenizer again",
        ) from error
    _check_tensors(folder, auto_class, scorer, model, info)
    if tokenizer.pad_token_id is None:
        raise UserError(f"scorer {scorer}: the tokenizer has no padding token", got=folder.name)
    return Loaded(model.eval().to(resolve_device(run_on.device)), tokenizer, longest_input(config, tokenizer))


def _check_tensors(folder: Path, auto_class: str, scorer: str, model: Any, info: dict[str, Any]) -> None:
    """Refuse a model of which transformers made up tensors, or dropped whole layers."""
    # A pooler that no score reads may be absent: encoders are often saved without one.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"scorer {scorer}: not such a model",
            got=f"{folder.name} lacks {len(missing)} tensors, e.g. {missing[0]}",
            expected=f"every tensor of {auto_class}",
            remedy="name a model that was fine-tuned for this",
        )
    # Heads for other tasks are dropped rightly; a layer beyond the config's number is not.
    if beyond := sorted(beyond_the_layers(model, info["unexpected_keys"])):
        raise UserError(
            f"scorer {scorer}: weights and config do not belong together",
            got=f"{folder.name} has {len(beyond)} tensors of layers that its config does not count, "
            f"e.g. {beyond[0]}",
            expected="as many layers as the config says",
            remedy="correct config.json, or save the model again",
        )


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Deal rows into batches, longest first, so that too large a batch fails at once.

    Args:
      lengths: tokens per row.
      batch_tokens: most rows x longest row of a batch; a longer row gets a batch of its own.

    Yields:
      Row numbers, every row once.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def progress(what: str, total: int) -> Any:
    """A bar on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, disable=None)
