"""Whether all weights of a checkpoint land in its architecture: read from headers, before anything is loaded.

transformers fills missing weights with random numbers, peft leaves a missing adapter tensor as it made it
(which changes nothing), and both drop what they do not know: with a warning, and the run goes on. So every
checkpoint, whichever engine will load it, is compared here with its architecture on the meta device.
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.module_names import beyond_the_layers, of_modules_without
from eval_harness.models.reference import ModelRef
from eval_harness.models.weight_files import ADAPTER, read_header, weight_files

_REMEDY = "copy or save the checkpoint again"
# Parts that a causal language model does not use, and that checkpoints with images, value heads or heads for
# several next tokens hold beside it.
_VISION = ("multi_modal_projector", "vision_model", "vision_tower", "visual")
_OTHER_PARTS = frozenset(["audio_tower", "mtp", "v_head", *_VISION])


def check_weights_fit(ref: ModelRef) -> int | None:
    """Compare the tensors of a checkpoint, and of its adapter, with the architecture.

    Returns:
      Rows of the embedding (the token ids that the model knows), None for an endpoint.

    Raises:
      UserError: tensors missing, unknown, of another shape, or different where the config ties them; an
        adapter that changes nothing; an unknown architecture.
    """
    if ref.path is None:
        return None
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "a package is missing",
            got="no accelerate",
            expected="accelerate",
            remedy='pip install "lm-eval[hf]==0.4.13"',
        )
    model = _whole_model(ref.path)
    if ref.adapter is not None:
        model = _with_adapter(model, ref.adapter)
    return int(model.get_input_embeddings().weight.shape[0])


def _whole_model(folder: Path) -> Any:
    """The architecture on the meta device, its checkpoint compared with it."""
    import transformers

    weight_files(folder)
    with _quiet("the checkpoint does not make a causal model", "config.json and weights that fit it"):
        config = transformers.AutoConfig.from_pretrained(str(folder))
        if getattr(config, "quantization_config", None) is not None:
            return _quantised(folder, config)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), config=config, device_map="meta", output_loading_info=True
        )
    unknown = [name for name in info["unexpected_keys"] if not _OTHER_PARTS & set(name.split("."))]
    _refuse(folder.name, info["missing_keys"], unknown)
    _check_ties(folder, model)
    return model


def _quantised(folder: Path, config: Any) -> Any:
    """The architecture of a checkpoint with packed weights, whose modules are compared with it.

    Every quantiser names and shapes its tensors in its own way, but all leave them in their module: a module
    of which the checkpoint holds nothing would be filled with random numbers.
    """
    import transformers

    del config.quantization_config
    empty = _empty(config)
    try:
        _, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception:
        # Packed tensors that cannot even be read as plain ones: the quantiser's own check stays.
        return empty
    unexpected = [name for name in info["unexpected_keys"] if not _OTHER_PARTS & set(name.split("."))]
    missing = of_modules_without(empty, info["missing_keys"], unexpected)
    _refuse(folder.name, missing, beyond_the_layers(empty, unexpected))
    return empty


def _empty(config: Any) -> Any:
    import torch
    import transformers

    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def _refuse(name: str, missing: Iterable[str], unknown: Iterable[str]) -> None:
    lists = (("missing", sorted(missing)), ("unknown to the architecture", sorted(unknown)))
    parts = [f"{len(keys)} tensors {what}, e.g. {keys[0]}" for what, keys in lists if keys]
    if parts:
        raise UserError(
            "corrupt weights",
            got=f"{name}: {'; '.join(parts)}",
            expected="every tensor of the architecture, and no other",
            remedy=f"{_REMEDY}; see whether config and weights belong together",
        )


@contextmanager
def _quiet(what: str, expected: str) -> Iterator[None]:
    """Without transformers' own warnings; whatever goes wrong inside is about the checkpoint's files."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    # Unknown architectures, bad configs and wrong shapes raise many types.
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The names of tensors stand below the first line.
        got = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise UserError(what, got=got, expected=expected, remedy=_REMEDY) from error
    finally:
        transformers.logging.set_verbosity(level)


def _check_ties(folder: Path, model: Any) -> None:
    """Refuse two different tensors where the config says that they are one: loaders then disagree."""
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    files = [path for path in weight_files(folder) if path.suffix == ".safetensors"] if ties else []
    holders = {name: path for path in files for name in read_header(path)[0]}
    for first, second in ties.items():
        both = first in holders and second in holders
        if both and _digest(holders[first], first) != _digest(holders[second], second):
            raise UserError(
                "corrupt weights",
                got=f"{folder.name}: {first} and {second} differ, and the config ties them",
                expected="equal tensors, or tie_word_embeddings: false",
                remedy="correct config.json, or save the checkpoint again",
            )


def _digest(path: Path, name: str) -> bytes:
    """sha256 of one tensor: type, shape and values."""
    header, start = read_header(path)
    entry, digest = header[name], hashlib.sha256()
    digest.update(repr((entry["dtype"], entry["shape"])).encode())
    begin, end = entry["data_offsets"]
    with path.open("rb") as handle:
        handle.seek(start + begin)
        while begin < end and (chunk := handle.read(min(1 << 24, end - begin))):
            digest.update(chunk)
            begin += len(chunk)
    return digest.digest()


def _with_adapter(model: Any, folder: Path) -> Any:
    """The model with its adapter, both on the meta device, the adapter's checkpoint compared with it."""
    if importlib.util.find_spec("peft") is None:
        raise UserError("a package is missing", got="no peft", expected="peft", remedy="pip install peft")
    import peft

    tensors = _adapter_tensors(folder)
    with _quiet("the adapter cannot be put on its base", "an adapter of this base"):
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = None
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # others decompose the base's weights, which are not there
        _resize(model, tensors)
        adapted = peft.get_peft_model(model, config, low_cpu_mem_usage=True)
        try:
            landed = peft.set_peft_model_state_dict(adapted, tensors, low_cpu_mem_usage=True)
        except KeyError as error:  # of modules_to_save
            got = f"{folder.name}: {error} is missing"
            raise UserError("corrupt weights", got=got, expected="every tensor", remedy=_REMEDY) from error
    missing = [name for name in landed.missing_keys if "default" in name.split(".")]
    # peft's own save leaves a second name of an embedding that is both resized and saved as a module.
    second = {name for name in tensors if name.replace(".modules_to_save", "") in set(tensors) - {name}}
    _refuse(folder.name, missing, set(landed.unexpected_keys) - second)
    _check_trained(folder, list(tensors))
    return adapted


def _adapter_tensors(folder: Path) -> dict[str, Any]:
    """The adapter's tensors on the meta device: names, shapes and types, no values."""
    import torch

    (path,) = weight_files(folder, ADAPTER)
    if path.suffix != ".safetensors":
        with _quiet("the adapter's weights cannot be read", "a file of tensors"):
            return dict(torch.load(path, map_location="meta", weights_only=True))
    header, _ = read_header(path)
    return {name: torch.empty(entry["shape"], device="meta") for name, entry in header.items()}


def _resize(model: Any, tensors: dict[str, Any]) -> None:
    """Give the model as many embeddings as the adapter holds: it may bring its own, for new tokens."""
    ends = [f"{name}.weight" for name, part in model.named_modules() if part is model.get_input_embeddings()]
    for name, tensor in tensors.items():
        if name.endswith(tuple(ends)) and tensor.shape[0] != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(tensor.shape[0], mean_resizing=False)


def _check_trained(folder: Path, names: list[str]) -> None:
    """Refuse a LoRA adapter whose A or B is zero everywhere: so peft makes one, and it is its base."""
    if not all("lora_" in name and ("_A" in name or "_B" in name) for name in names):
        return
    zero = _zeros(folder)
    if all(zero[name] or zero.get(name.replace("_B", "_A"), True) for name in names if "_B" in name):
        raise UserError(
            "the adapter changes nothing",
            got=f"{folder.name}: every product of A and B is zero, as before the first training step",
            expected="a trained adapter",
            remedy="save the adapter after training; where its base is meant, name the base's folder",
        )


def _zeros(folder: Path) -> dict[str, bool]:
    """Adapter tensor -> whether it is zero everywhere."""
    import torch
    from safetensors import safe_open

    (path,) = weight_files(folder, ADAPTER)
    if path.suffix != ".safetensors":
        held = torch.load(path, map_location="cpu", weights_only=True)
        return {name: not bool(tensor.any()) for name, tensor in held.items()}
    with safe_open(path, "pt") as file:
        return {name: not bool(file.get_tensor(name).any()) for name in file.keys()}  # noqa: SIM118 - no dict
