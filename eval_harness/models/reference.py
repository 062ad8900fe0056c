"""What model is meant: a folder, an adapter with its base, an endpoint's address, or a file of texts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval_harness.errors import UserError

Kind = Literal["hf", "lora", "endpoint", "outputs"]


@dataclass(frozen=True)
class ModelRef:
    """A resolved model; `outputs` is a file of texts. Unused fields are None."""

    kind: Kind
    path: Path | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    url: str | None = None
    model_id: str | None = None


def resolve(
    model: str, base: str | None = None, tokenizer: str | None = None, model_id: str | None = None
) -> ModelRef:
    """Tell a Hugging Face folder, a LoRA adapter, an endpoint's address and a file of texts apart.

    Raises:
      UserError: no such folder, an adapter whose base is not at hand.
    """
    tok = _folder(tokenizer, "no such tokenizer folder") if tokenizer else None
    if model.startswith(("http://", "https://")):
        return ModelRef("endpoint", tokenizer=tok, url=model.rstrip("/"), model_id=model_id)
    if Path(model).is_file() and Path(model).name.removesuffix(".gz").endswith((".json", ".jsonl")):
        return ModelRef("outputs", Path(model).resolve())
    path = _folder(model, "no such model")
    if not (path / "adapter_config.json").is_file():
        return ModelRef("hf", path, tokenizer=tok or path, model_id=model_id)
    named = base or read_json(path / "adapter_config.json").get("base_model_name_or_path") or ""
    if not Path(named).is_dir():
        raise UserError(
            "the adapter's base model is not a local folder",
            got=named or "none named",
            expected="a folder",
            remedy="pass --base DIR",
        )
    tokenizer_folder = path if (path / "tokenizer_config.json").is_file() else Path(named)
    return ModelRef("lora", Path(named).resolve(), path, tok or tokenizer_folder.resolve(), model_id=model_id)


def _folder(name: str, what: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        raise UserError(what, got=name, expected="a local folder with config.json", remedy="check the path")
    return path.resolve()


def chat_template(tokenizer: Path) -> str | None:
    """The chat template's text, None where the tokenizer has none."""
    jinja = tokenizer / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = tokenizer / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.is_file() else None
    return json.dumps(template) if isinstance(template, list | dict) else template


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file. Raises UserError: unreadable, or no object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError("unreadable JSON", got=f"{path.name}: {error}", expected="a JSON object") from error
    if not isinstance(data, dict):
        raise UserError(
            "unreadable JSON", got=f"{path.name}: {type(data).__name__}", expected="a JSON object"
        )
    return data
