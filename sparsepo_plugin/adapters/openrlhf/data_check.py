"""Checks of the preference data: files, columns, and every row, made as training will have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.openrlhf import quiet
from sparsepo_plugin.adapters.openrlhf.rows import prepared_rows
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.adapters.pairs.prepare import PreparedPairs
from sparsepo_plugin.errors import UserError

_FILE_TYPES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
_TEXT_TYPES = (".json", ".jsonl", ".csv")
TRAINING, EVALUATION = "--data.dataset", "--eval.dataset"


def check_datasets(arguments: SimpleNamespace, tokenizer: Any, notes: list[str]) -> dict[str, PreparedPairs]:
    """Check training and, where given, evaluation data.

    Args:
      arguments: upstream's arguments. ``eval.split`` becomes "train" for local files, which have no other;
        ``data.prompt_key`` becomes "prompt" where it is not given and the training data have that column.
      tokenizer: the policy's.
      notes: where what a user should know is added.

    Returns:
      The rows by flag.

    Raises:
      UserError: missing, empty, unreadable or malformed data, or too few pairs for one batch.
    """
    if not arguments.data.dataset:
        raise UserError(f"{TRAINING} is missing: expected files, folders or hub names, separated by commas")
    _check_probabilities(arguments.data)
    prepared = {TRAINING: _check_one(arguments, tokenizer, TRAINING, notes)}
    if arguments.eval.dataset:
        if all(_is_file(part) for part in _parts(arguments.eval.dataset)):
            arguments.eval.split = "train"  # the only split of a file; upstream fails on any other
        prepared[EVALUATION] = _check_one(arguments, tokenizer, EVALUATION, notes)
    return prepared


def _parts(value: str) -> list[str]:
    return [part.strip().split("@")[0].strip() for part in value.split(",")]


def _is_file(part: str) -> bool:
    return part.endswith(_FILE_TYPES)


def _check_probabilities(data: SimpleNamespace) -> None:
    if data.dataset_probs is None:
        return
    count = len(_parts(data.dataset))
    try:
        shares = [float(part) for part in data.dataset_probs.split(",")]
    except ValueError:
        shares = []
    if len(shares) != count or not all(0 < p <= 1 for p in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"--data.dataset_probs: got {data.dataset_probs!r}, expected {count} numbers above 0, separated "
            f"by commas, that add up to 1: one for each data set"
        )


def _check_one(arguments: SimpleNamespace, tokenizer: Any, flag: str, notes: list[str]) -> PreparedPairs:
    training = flag == TRAINING
    value = arguments.data.dataset if training else arguments.eval.dataset
    for part in _parts(value):
        _check_path(flag, value, part)
    data = _load(arguments, flag, value)
    if training:  # upstream takes all pairs of an evaluation set
        data = data.select(range(min(arguments.data.max_samples, len(data))))
    least = arguments.train.batch_size if training else 1
    if not len(data):
        raise UserError(f"{flag} {value}: got no pairs, expected at least {least}")
    _check_columns(arguments, flag, value, data, notes)
    with _quiet_datasets():
        rows = prepared_rows(data, tokenizer, arguments)
    rows.account.check(f"{flag} {value}", least)
    return rows


def _check_path(flag: str, value: str, part: str) -> None:
    path = Path(part)
    if not part:
        raise UserError(f"{flag} {value!r}: got an empty name between commas, expected a data set; drop it")
    if part.endswith((".gz", ".zst", ".bz2", ".xz", ".zip")):
        raise UserError(
            f"{flag} {part}: got a compressed file, expected {', '.join(_FILE_TYPES)}; unpack it first"
        )
    looks_local = _is_file(part) or part.startswith((".", "/", "~")) or part.count("/") > 1
    if looks_local and not path.exists():
        raise UserError(f"{flag} {part}: no such file or folder")
    if path.is_file() and not _is_file(part):  # upstream would look for it on the hub
        raise UserError(f"{flag} {part}: got a file of another type, expected {', '.join(_FILE_TYPES)}")
    if _is_file(part) and path.is_dir():  # upstream goes by the ending and finds no file
        raise UserError(
            f"{flag} {part}: got a folder with the ending of a file, expected a file; name one in it, or "
            f"rename the folder without {path.suffix}"
        )
    if _is_file(part) and path.is_file():
        if path.stat().st_size == 0:
            raise UserError(f"{flag} {part}: the file is empty, expected one preference pair per line")
        if part.endswith(_TEXT_TYPES):
            _check_encoding(flag, path)


def _check_encoding(flag: str, path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                if number == 1 and line.startswith(b"PAR1"):
                    raise UserError(
                        f"{flag} {path}: got a Parquet file, expected {path.suffix[1:]}; "
                        f"rename it to .parquet"
                    ) from None
                # Any bytes pass for Latin-1: of UTF-16, which starts with a mark, it would make other text.
                marked = number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff"))
                raise UserError(
                    f"{flag} {path}: line {number} is not UTF-8 (byte 0x{line[error.start]:02x}); convert "
                    f"the file, for example: iconv -f {'utf-16' if marked else 'latin1'} -t utf-8 {path.name}"
                ) from None


def _load(arguments: SimpleNamespace, flag: str, value: str) -> Any:
    """Load through upstream's blending_datasets, as upstream calls it, quietly."""
    import_openrlhf()
    from datasets.exceptions import DatasetGenerationError
    from openrlhf.datasets.utils import blending_datasets

    mute = quiet.mute(arguments)
    data, training = arguments.data, flag == TRAINING
    split = data.dataset_split if training else arguments.eval.split
    limits = (data.dataset_probs, mute, arguments.train.seed, data.max_samples) if training else (None, mute)
    try:
        with _quiet_datasets():
            return blending_datasets(value, *limits, dataset_split=split)
    except AttributeError:
        raise UserError(
            f"{flag} {value}: no split named {split!r}; name one with {flag.split('.')[0]}.*split"
        ) from None
    except (DatasetGenerationError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        if "corresponds to no data" in reason:  # blank lines, or a header alone
            raise UserError(f"{flag} {value}: got no rows, expected preference pairs") from None
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


def _check_columns(arguments: SimpleNamespace, flag: str, value: str, data: Any, notes: list[str]) -> None:
    options = arguments.data
    if options.prompt_key is None:
        if "prompt" in data.column_names:
            options.prompt_key = "prompt"
            notes.append(f"prompts are taken from the column 'prompt' of {value} (--data.prompt_key)")
        elif not options.apply_chat_template:
            notes.append(
                f"warning: {flag} {value} has no prompt: all of chosen and rejected is trained as response; "
                f"--data.prompt_key names a column of prompts"
            )
    keys = {name: getattr(options, f"{name}_key") for name in ("prompt", "chosen", "rejected")}
    if len(named := list(filter(None, keys.values()))) > len(set(named)):
        raise UserError(
            f"--data.prompt_key, chosen_key and rejected_key: got {', '.join(named)}, expected a column each"
        )
    for name, key in keys.items():
        if key and key not in data.column_names:
            joined = next((column for column in data.column_names if {";", "\t"} & set(column)), None)
            if joined is not None and key in joined.replace("\t", ";").split(";"):
                raise UserError(
                    f"{flag} {value}: got one column {joined!r}, expected columns separated by commas; "
                    f"write the table with commas"
                )
            raise UserError(
                f"{flag} {value}: no column {key!r}, got {', '.join(data.column_names)}; "
                f"name it with --data.{name}_key"
            )
