"""Local data instead of the hub: a mapping file names, per task and split, the rows a shipped task reads.

    version: 1
    root: data                      # optional, relative to this file
    tasks:
      gsm8k: {train: gsm8k_train.jsonl.gz, test: gsm8k_test.jsonl.gz}
      "mmlu_*":                     # {1} below is what the star matched
        test: {file: mmlu_test.jsonl.gz, where: {subject: "{1}"}}
        dev:  {file: mmlu_dev.jsonl.gz,  where: {subject: "{1}"}, standin: true}

An entry is a file or a mapping with `file` and any of: `convert` (a row converter), `where` (keep rows with
these values), `skip` and `take` (slice), `standin` (few-shot rows that are not the benchmark's own: scores
made with them are marked not comparable).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from eval_harness.errors import UserError, together
from eval_harness.files.configs import Config, Text, parse_config, read_yaml
from eval_harness.reasoning.converters import get_converter

_SPLITS = "{SPLIT: FILE or {file: FILE, ...}}"


class SplitSource(Config):
    """Where one split's rows come from; fields as in the module's docstring."""

    file: Annotated[Path, Field(strict=False, description="a file name")]
    convert: Text | None = None
    where: dict[str, Any] = Field({}, description="{COLUMN: VALUE}")
    skip: int = Field(0, ge=0, description="an integer of at least 0")
    take: int | None = Field(None, ge=1, description="an integer of at least 1")
    standin: bool = False


class _MappingFile(Config):
    version: Literal[1] = Field(description="1")
    root: Text = "."
    tasks: dict[str, dict[str, Any]] = Field(description=f"{{TASK: {_SPLITS}}}")


class DataMapping(Config):
    """A parsed mapping file: task pattern -> split -> source, in file order; the first that fits wins."""

    tasks: dict[str, dict[str, SplitSource]]

    def splits(self, task: str) -> dict[str, SplitSource] | None:
        """Sources of a task's splits, None where the mapping does not name the task."""
        for pattern, splits in self.tasks.items():
            regex = "(.*)".join(re.escape(part) for part in pattern.split("*"))
            if match := re.fullmatch(regex, task):
                return {name: _fill(source, match.groups()) for name, source in splits.items()}
        return None


def load_mapping(path: Path) -> DataMapping:
    """Read a mapping file. Raises UserError: missing file, bad YAML, unknown key, wrong version."""
    if not path.is_file():
        raise UserError("no such data mapping", got=path, expected="a YAML file", remedy="check --data")
    mapping = parse_config(_MappingFile, read_yaml(path, "data mapping"), f"data mapping {path.name}")
    root = (path.resolve().parent / mapping.root).resolve()
    tasks: dict[str, dict[str, SplitSource]] = {task: {} for task in mapping.tasks}
    mistakes: list[UserError] = []
    for task, splits in mapping.tasks.items():
        for name, entry in splits.items():
            try:
                tasks[task][name] = _source(entry, root, f"data mapping, {task}.{name}")
            except UserError as error:
                mistakes.append(error)
    if mistakes:
        raise together(mistakes)
    return DataMapping(tasks=tasks)


def _source(entry: object, root: Path, where: str) -> SplitSource:
    if not isinstance(entry, str | Mapping):
        raise UserError(where, got=entry, expected="a file name or {file: ...}")
    source = parse_config(SplitSource, {"file": entry} if isinstance(entry, str) else entry, where)
    if source.convert:
        get_converter(source.convert)
    return source.model_copy(update={"file": root / source.file})


def _fill(source: SplitSource, groups: tuple[str, ...]) -> SplitSource:
    def sub(value: object) -> Any:
        if not isinstance(value, str):
            return value
        for i, group in enumerate(groups):
            value = value.replace(f"{{{i + 1}}}", group)
        return value

    filters = {column: sub(value) for column, value in source.where.items()}
    return source.model_copy(update={"file": Path(sub(str(source.file))), "where": filters})
