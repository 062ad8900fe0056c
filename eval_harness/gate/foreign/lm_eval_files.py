"""Files that lm-eval 0.4.5 to 0.4.13 writes with `--log_samples`: a results file, and samples per task.

What holds them together: `results_TIME.json` counts the documents of a task and hashes the hashes of all its
samples in their order; `samples_TASK_TIME.jsonl` has every document once per filter.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.files.rows import Row, read_rows, whole_text

_TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[\d.\-]*)\.jsonl?$")
AGAIN = "copy the folder again, or run lm-eval again with --log_samples into an empty one"


def results_files(folder: Path) -> list[Path]:
    """`results_TIME.json`, or `NAME_TIME.json` where --output_path named a file."""
    paths = (path for pattern in ("*.json", "*/*.json") for path in folder.glob(pattern))
    return sorted(path for path in paths if _TIME.search(path.name))


def read_table(file: Path) -> dict[str, Any]:
    """The results file. Raises UserError: damaged, or no such file at all."""
    try:
        table = json.loads(whole_text(file))
        for key in ("results", "configs"):
            if not isinstance(table[key], dict) or not table[key]:
                raise ValueError(f"no {key}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            "unreadable results of lm-eval",
            got=f"{file.name}: {first_line(error)}",
            expected="the file that it writes beside its samples",
            remedy=AGAIN,
        ) from error
    return dict(table)


def read_samples(file: Path, task: str, table: dict[str, Any]) -> list[Row]:
    """The rows of a task, complete and in their order. Raises UserError: damaged, missing, cut, doubled."""
    stamp = _TIME.search(file.name)
    path = file.with_name(f"samples_{task}_{stamp[1] if stamp else ''}.jsonl")
    if not path.is_file():
        raise UserError(
            f"the samples of {task} are missing",
            got=f"no {path.name} beside {file.name}",
            expected="the samples of every task",
            remedy=AGAIN,
        )
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        if missing := {"doc_id", "doc", "arguments", "resps", "doc_hash", "prompt_hash"} - set(row):
            raise UserError(
                "no sample of lm-eval 0.4.5 to 0.4.13",
                got=f"{path.name}, line {number}: without {', '.join(sorted(missing))}",
                expected="the lines that --log_samples writes",
            )
        prompt, digest = prompt_of(row), row["prompt_hash"]
        if isinstance(prompt, str):
            digest = hashlib.sha256(prompt.encode()).hexdigest()
        if prompt is None or digest != row["prompt_hash"]:
            raise UserError(
                "a damaged sample",
                got=f"{path.name}, line {number}: its prompt has another hash than it says",
                expected="the line as lm-eval wrote it",
                remedy=AGAIN,
            )
    _check_whole(path, task, rows, table)
    return rows


def _check_whole(path: Path, task: str, rows: list[Row], table: dict[str, Any]) -> None:
    """All samples in their order by the hash in the results, and as many documents as counted there."""
    known = table.get("task_hashes", {}).get(task)
    parts = (
        str(row[key]) for row in rows for key in ("doc_hash", "prompt_hash", "target_hash") if key in row
    )
    if known is not None and hashlib.sha256("".join(parts).encode()).hexdigest() != known:
        raise UserError(
            "samples and results do not belong together",
            got=f"{path.name}: {len(rows)} lines whose hashes give another one than the results hold",
            expected="all samples of the evaluation, each once, in their order",
            remedy=AGAIN,
        )
    count = table.get("n-samples", {}).get(task, {}).get("effective")
    documents = len({json.dumps(row["doc_id"]) for row in rows})
    if known is None and count is not None and documents != count:
        raise UserError(
            "samples are missing", got=f"{path.name}: {documents} documents", expected=count, remedy=AGAIN
        )


def refuse_strangers(file: Path) -> None:
    """Samples of another evaluation in the folder: whose results are lost, or were never written."""
    stamp = _TIME.search(file.name)
    for other in sorted(file.parent.glob("samples_*.jsonl")):
        theirs = _TIME.search(other.name)
        if theirs and stamp and theirs[1] != stamp[1]:
            raise UserError(
                "samples of another evaluation in the folder",
                got=f"{other.name} beside {file.name}",
                expected="one evaluation a folder",
                remedy="name the results file of the one to compare",
            )


def prompt_of(row: Row) -> Any:
    """What the model was asked, of the first choice."""
    arguments = row["arguments"]
    first = next(iter(arguments.values()), {}) if isinstance(arguments, dict) else arguments[0]
    return next(iter(first.values()), None) if isinstance(first, dict) else first[0]


def continuations(row: Row) -> list[str]:
    """Texts whose log-probability was asked, none of a generated answer."""
    arguments = row["arguments"]
    parts = [
        list(part.values()) if isinstance(part, dict) else list(part)
        for part in (arguments.values() if isinstance(arguments, dict) else arguments)
    ]
    return [part[1] for part in parts if len(part) > 1 and isinstance(part[1], str)]
