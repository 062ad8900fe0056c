"""Checks of the preference data, on upstream's own loading and formatting code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.errors import UserError

_FILE_TYPES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
# Tokenizing is checked on at most this many pairs; the dataset itself counts exactly when it is built.
_ROWS_TOKENIZED = 20_000


def check_datasets(arguments: SimpleNamespace, tokenizer: Any) -> None:
    """Check training and, where given, evaluation data.

    Raises:
      UserError: missing, empty, unreadable or malformed data, or too few pairs for one batch.
    """
    if not arguments.data.dataset:
        raise UserError(
            "--data.dataset is missing: expected files, folders or hub names, separated by commas"
        )
    _check_one(arguments, tokenizer, "--data.dataset", arguments.data.dataset, arguments.train.batch_size)
    if arguments.eval.dataset:
        if all(_is_file(part) for part in _parts(arguments.eval.dataset)):
            arguments.eval.split = "train"  # the only split of a file; upstream fails on any other
        _check_one(arguments, tokenizer, "--eval.dataset", arguments.eval.dataset, 1)


def _parts(value: str) -> list[str]:
    return [part.strip().split("@")[0].strip() for part in value.split(",")]


def _is_file(part: str) -> bool:
    return part.endswith(_FILE_TYPES)


def _check_one(arguments: SimpleNamespace, tokenizer: Any, flag: str, value: str, least: int) -> None:
    for part in _parts(value):
        _check_path(flag, part)
    split = arguments.eval.split if flag == "--eval.dataset" else arguments.data.dataset_split
    data = _load(arguments, flag, value, split)
    data = data.select(range(min(arguments.data.max_samples, len(data))))
    if not len(data):
        raise UserError(f"{flag} {value}: got no pairs, expected at least {least}")
    _check_columns(arguments, flag, value, data)
    kept = _count_kept(arguments, tokenizer, data, flag, value)
    if kept < least:
        raise UserError(
            f"{flag} {value}: got {kept} usable pairs, expected at least one batch of {least}; "
            f"add data or lower --train.batch_size"
        )


def _check_path(flag: str, part: str) -> None:
    path = Path(part)
    if part.endswith((".gz", ".zst", ".bz2", ".xz", ".zip")):
        raise UserError(
            f"{flag} {part}: got a compressed file, expected {', '.join(_FILE_TYPES)}; unpack it first"
        )
    looks_local = _is_file(part) or part.startswith((".", "/", "~")) or part.count("/") > 1
    if looks_local and not path.exists():
        raise UserError(f"{flag} {part}: no such file or folder")
    if _is_file(part) and path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{flag} {part}: the file is empty, expected one preference pair per line")


def _load(arguments: SimpleNamespace, flag: str, value: str, split: str) -> Any:
    """Load through upstream's blending_datasets, quietly."""
    import_openrlhf()
    from datasets.exceptions import DatasetGenerationError
    from openrlhf.datasets.utils import blending_datasets

    quiet = SimpleNamespace(print=lambda *_: None, is_rank_0=lambda: False, args=arguments)
    probabilities = arguments.data.dataset_probs if flag == "--data.dataset" else None
    try:
        with _quiet_datasets():
            return blending_datasets(
                value,
                probabilities,
                quiet,
                arguments.train.seed,
                arguments.data.max_samples,
                dataset_split=split,
            )
    except AttributeError:
        raise UserError(
            f"{flag} {value}: no split named {split!r}; name one with {flag.split('.')[0]}.*split"
        ) from None
    except (DatasetGenerationError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"{flag} {value}: cannot be read as preference pairs: {reason}") from None


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silence datasets' progress bars and its log of what it cannot read: a refusal is one line."""
    import datasets

    level, hidden = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not hidden:
            datasets.enable_progress_bars()


def _check_columns(arguments: SimpleNamespace, flag: str, value: str, data: Any) -> None:
    keys = {name: getattr(arguments.data, f"{name}_key") for name in ("prompt", "chosen", "rejected")}
    for name, key in keys.items():
        if key and key not in data.column_names:
            raise UserError(
                f"{flag} {value}: no column {key!r}, got {', '.join(data.column_names)}; "
                f"name it with --data.{name}_key"
            )
        if not key or arguments.data.apply_chat_template:
            continue
        row = next((n for n, text in enumerate(data[key]) if not isinstance(text, str)), None)
        if row is not None:
            raise UserError(
                f"{flag} {value}: row {row}, column {key!r}: got {type(data[row][key]).__name__}, "
                f"expected text (conversations need --data.apply_chat_template)"
            )


def _count_kept(arguments: SimpleNamespace, tokenizer: Any, data: Any, flag: str, value: str) -> int:
    """Count the pairs that upstream keeps: those whose prompt is shorter than max_len - 2 tokens."""
    from openrlhf.datasets.reward_dataset import preprocess_data

    checked = data.select(range(min(len(data), _ROWS_TOKENIZED)))
    options = arguments.data
    template = tokenizer.apply_chat_template if options.apply_chat_template else None
    if template and options.tokenizer_chat_template:
        tokenizer.chat_template = options.tokenizer_chat_template
    if template and not tokenizer.chat_template:
        raise UserError(
            "--data.apply_chat_template: the tokenizer has none; give --data.tokenizer_chat_template"
        )
    prompts = [
        preprocess_data(
            row,
            options.input_template,
            options.prompt_key,
            options.chosen_key,
            options.rejected_key,
            template,
            True,
        )[0]
        for row in checked
    ]
    lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    kept = sum(length < options.max_len - 2 for length in lengths)
    if not kept:
        raise UserError(
            f"{flag} {value}: every response is truncated away: the shortest prompt has {min(lengths)} "
            f"tokens, --data.max_len {options.max_len} leaves room for prompts below {options.max_len - 2}; "
            "raise it"
        )
    return kept + len(data) - len(checked)
