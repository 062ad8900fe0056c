"""A model's content hash: two models are the same where all that is loaded is the same."""

import hashlib
import json
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.models.reference import ModelRef, chat_template
from eval_harness.models.weight_files import ADAPTER, weight_files
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
_CONFIG_FILES = ("config.json", "generation_config.json")


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
        adapter = hash_files([*weight_files(ref.adapter, ADAPTER), ref.adapter / "adapter_config.json"])
    config = [p for p in (ref.path / n for n in _CONFIG_FILES) if p.is_file()]
    return ModelIdentity(
        kind=ref.kind,
        label=(ref.adapter or ref.path).name,
        weights=hash_files([*files, *config]),
        tokenizer=_hash_named(ref.tokenizer, TOKENIZER_FILES),
        chat_template=_template_hash(ref.tokenizer),
        adapter=adapter,
    )


def _template_hash(tokenizer: Path) -> str | None:
    text = chat_template(tokenizer)
    return None if text is None else sha(text)


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


def sha(text: str) -> str:
    """sha256 of a text, hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
