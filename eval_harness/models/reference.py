"""What model is meant, is it whole, and what is its content hash: read from files, nothing loaded.

Source of the layout: transformers' `save_pretrained` (config.json, model.safetensors or shards with an index)
and peft's (adapter_config.json, adapter_model.safetensors).
"""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.types import ModelIdentity

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "spiece.model",
    "tekken.json",
)
_CONFIG_FILES = ("config.json", "generation_config.json", "adapter_config.json")


@dataclass(frozen=True)
class ModelRef:
    """A resolved model: `kind` is hf, lora, endpoint or outputs (a file of texts); unused fields are None."""

    kind: str
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
    named = base or _read_json(path / "adapter_config.json").get("base_model_name_or_path") or ""
    if not Path(named).is_dir():
        raise UserError(
            "the adapter's base model is not a local folder",
            got=named or "none named",
            expected="a folder",
            remedy="pass --base DIR",
        )
    own = path if (path / "tokenizer_config.json").is_file() else Path(named)
    return ModelRef("lora", Path(named).resolve(), path, tok or own.resolve(), model_id=model_id)


def _folder(name: str, what: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        raise UserError(what, got=name, expected="a local folder with config.json", remedy="check the path")
    return path.resolve()


def identity(ref: ModelRef) -> ModelIdentity:
    """Content identity of a model; reads every weight byte once (about 1-2 GB/s).

    Raises:
      UserError: files missing or corrupt.
    """
    if ref.kind == "endpoint":
        address = json.dumps([ref.url, ref.model_id])
        tok = _hash_named(ref.tokenizer, TOKENIZER_FILES) if ref.tokenizer else "remote"
        template = _template_hash(ref.tokenizer) if ref.tokenizer else None
        return ModelIdentity("endpoint", ref.model_id or "unnamed", sha(address), tok, template)
    assert ref.path is not None  # by construction in resolve
    assert ref.tokenizer is not None
    files = weight_files(ref.path)
    adapter = None
    if ref.adapter is not None:
        adapter = hash_files(
            [*weight_files(ref.adapter, "adapter_model"), ref.adapter / "adapter_config.json"]
        )
    config = [p for p in (ref.path / n for n in _CONFIG_FILES) if p.is_file()]
    return ModelIdentity(
        kind=ref.kind,
        label=(ref.adapter or ref.path).name,
        weights=hash_files([*files, *config]),
        tokenizer=_hash_named(ref.tokenizer, TOKENIZER_FILES),
        chat_template=_template_hash(ref.tokenizer),
        adapter=adapter,
    )


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """The weight files that would be loaded, each checked to be whole.

    Raises:
      UserError: none, a shard missing, a truncated or unreadable file.
    """
    what = "no such model" if stem == "model" else "no such adapter"
    config = folder / ("config.json" if stem == "model" else "adapter_config.json")
    if not config.is_file():
        raise UserError(what, got=folder, expected=f"a folder with {config.name}", remedy="check the path")
    _read_json(config)
    for name in (f"{stem}.safetensors", "pytorch_model.bin" if stem == "model" else f"{stem}.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            return [_whole(folder / shard) for shard in shards]
        if (folder / name).is_file():
            return [_whole(folder / name)]
    raise UserError(
        "the model folder holds no weights",
        got=folder,
        expected=f"{stem}.safetensors or shards",
        remedy="save with save_pretrained, or copy the missing files",
    )


def _whole(path: Path) -> Path:
    """Check that a weight file is complete: a safetensors header covers its file exactly, .bin is a zip."""
    remedy = "copy or save the checkpoint again"
    if not path.is_file():
        raise UserError(
            "a weight file is missing", got=path.name, expected="all shards of the index", remedy=remedy
        )
    if path.suffix != ".safetensors":
        import zipfile

        if not zipfile.is_zipfile(path):
            raise UserError("corrupt weights", got=path.name, expected="a torch zip archive", remedy=remedy)
        return path
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        try:
            header = json.loads(handle.read(length)) if length + 8 <= size else None
        except (UnicodeDecodeError, json.JSONDecodeError):
            header = None
    if not isinstance(header, dict):
        raise UserError(
            "corrupt weights", got=f"{path.name}, unreadable header", expected="safetensors", remedy=remedy
        )
    ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
    if 8 + length + max(ends, default=0) != size:
        raise UserError(
            "corrupt weights",
            got=f"{path.name}, {size} bytes",
            expected=f"{8 + length + max(ends, default=0)} bytes",
            remedy=remedy,
        )
    return path


def chat_template(tokenizer: Path) -> str | None:
    """The chat template's text, None where the tokenizer has none."""
    jinja = tokenizer / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = tokenizer / "tokenizer_config.json"
    found = _read_json(config).get("chat_template") if config.is_file() else None
    return json.dumps(found) if isinstance(found, list | dict) else found


def _template_hash(tokenizer: Path) -> str | None:
    text = chat_template(tokenizer)
    return None if text is None else sha(text)


def sha(text: str) -> str:
    """sha256 of a text, hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _hash_named(folder: Path, names: tuple[str, ...]) -> str:
    paths = [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        raise UserError(
            "no tokenizer files",
            got=folder,
            expected="tokenizer.json or tokenizer_config.json",
            remedy="save the tokenizer into the folder, or pass --tokenizer DIR",
        )
    return hash_files(paths)


def hash_files(paths: list[Path]) -> str:
    """sha256 over names and contents, in the order of names, hex."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{path.name}\0{digest}\0".encode())
    return total.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError("unreadable JSON", got=f"{path.name}: {error}", expected="a JSON object") from error
    if not isinstance(data, dict):
        raise UserError(
            "unreadable JSON", got=f"{path.name}: {type(data).__name__}", expected="a JSON object"
        )
    return data
