"""Record reference activations by forward hooks on any causal language model, for MaPO.

Sites are found by structure: a stack of equal blocks, in every block the module that takes an attention mask
and the module that does not, inside them the projections (modules with a matrix). No class is named, so that
any Hugging Face model works, and the sites are the same for every attention kernel. Of every site only the
mean over its features is kept, [rows, seq] in float32, never the activation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sparsepo_plugin.errors import UserError, unknown

Group = Literal["mlp", "attn", "resid", "logits"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Site:
    """A place in the model whose activation is recorded.

    Attributes:
      name: group, site and block, such as "attn.query_0"; the group is what stands before the first dot.
      module: path of the module inside the model.
      side: "output" or "input" of that module.
      features: part of the last dimension, as (start, stop); None for all of it.
    """

    name: str
    module: str
    side: Literal["output", "input"] = "output"
    features: tuple[int, int] | None = None


def parse_groups(text: str) -> tuple[str, ...]:
    """Read "all" or a list such as "mlp,resid" (or "mlp+resid").

    Raises:
      UserError: unknown or repeated group.
    """
    if text == "all":
        return GROUPS
    groups = tuple(part.strip() for part in text.replace("+", ",").split(","))
    for group in groups:
        if group not in GROUPS:
            raise unknown("site group", group, ("all", *GROUPS))
    if len(set(groups)) != len(groups):
        raise UserError(f"option sites: got {text!r}, expected every group once")
    return groups


def find_sites(model: nn.Module, groups: Iterable[str] = GROUPS) -> list[Site]:
    """Find the recording sites of a causal language model.

    Args:
      model: a transformers model with get_input_embeddings and get_output_embeddings.
      groups: of GROUPS.

    Returns:
      Sites in block order. ``resid``: embeddings, and per block every direct normalisation, the attention's
      and the MLP's output and the block's output, and the final normalisation. ``attn``: the outputs of the
      input projections and the input of the output projection (the context). ``mlp``: the input of the last
      projection (what the non-linearity passes on), or the output of a block of experts. ``logits``: the mean
      logit, from the output head's input.

    Raises:
      UserError: the model has no such structure.
    """
    paths = {module: name for name, module in model.named_modules()}
    stack = block_stack(model)
    sites: list[Site] = []
    wanted = set(groups)
    if "resid" in wanted:
        sites.append(Site("resid.embedding", paths[model.get_input_embeddings()]))  # type: ignore[operator]
    for index, block in enumerate(stack):
        sites += [site for site in _block_sites(block, paths, index) if site.name.split(".")[0] in wanted]
    if "resid" in wanted:
        sites += [Site("resid.final_norm", name) for name in _final_norms(model, stack, paths)]
    if "logits" in wanted:
        head = model.get_output_embeddings()  # type: ignore[operator]
        if head is None:
            raise UserError(f"{type(model).__name__} has no output head: expected a causal language model")
        sites.append(Site("logits", paths[head], "input"))
    return sites


def block_stack(model: nn.Module) -> nn.ModuleList:
    """The list of blocks: of all lists whose members hold an attention, the one with most parameters."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    stacks = [
        m for m in lists if any(_takes_attention_mask(part) for part in m[0].modules() if part is not m[0])
    ]
    if not stacks:
        raise UserError(
            f"{type(model).__name__}: found no stack of blocks with attention, expected a causal model"
        )
    return max(stacks, key=lambda m: sum(_shape(p).numel() for p in m.parameters()))


def _shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole parameter: ZeRO-3 leaves an empty one in place and keeps the shape beside it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _takes_attention_mask(module: nn.Module) -> bool:
    return "attention_mask" in inspect.signature(module.forward).parameters


def _is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and len(_shape(weight)) == 2 and not isinstance(module, nn.Embedding)


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    leaf = not any(True for _ in module.children())
    return leaf and isinstance(weight, Tensor) and len(_shape(weight)) == 1


def _block_sites(block: nn.Module, paths: dict[nn.Module, str], index: int) -> list[Site]:
    sites: list[Site] = []
    attention = [child for child in block.children() if _takes_attention_mask(child)]
    # OPT keeps the projections of its MLP in the block itself: the last one ends the MLP.
    loose = [child for child in block.children() if _is_projection(child)]
    for name, child in block.named_children():
        if child in attention:
            sites += _attention_sites(child, paths, index)
            sites.append(Site(f"resid.attention_{index}", paths[child]))
        elif _is_norm(child):
            sites.append(Site(f"resid.{name}_{index}", paths[child]))
        elif child in loose[:-1]:
            continue
        elif any(_has_matrix(part) for part in child.modules()):
            taken = any(site.name.startswith("mlp.") for site in sites)  # a block may hold two MLPs
            sites.append(_mlp_site(child, paths, index, f"{name}_" if taken else ""))
            sites.append(Site(f"resid.{name}_{index}", paths[child]))
    sites.append(Site(f"resid.block_{index}", paths[block]))
    return sites


def _has_matrix(module: nn.Module) -> bool:
    return any(len(_shape(p)) >= 2 for p in module.parameters(recurse=False))


def _attention_sites(attention: nn.Module, paths: dict[nn.Module, str], index: int) -> list[Site]:
    projections = [(name, m) for name, m in attention.named_modules() if _is_projection(m)]
    if not projections:
        return []
    *inputs, (_, output) = projections
    sites = [Site(f"attn.{name}_{index}", paths[m]) for name, m in inputs]
    return [*sites, Site(f"attn.context_{index}", paths[output], "input")]


def _mlp_site(mlp: nn.Module, paths: dict[nn.Module, str], index: int, prefix: str) -> Site:
    projections = [m for m in mlp.modules() if _is_projection(m)]
    # Experts hold their matrices stacked in three dimensions, or one projection list per expert: no single
    # activation covers all tokens there, so the block's output stands for it.
    experts = any(len(_shape(p)) > 2 for p in mlp.parameters()) or any(
        isinstance(m, nn.ModuleList) for m in mlp.modules()
    )
    if experts or not projections:
        return Site(f"mlp.{prefix}output_{index}", paths[mlp])
    return Site(f"mlp.{prefix}activation_{index}", paths[projections[-1]], "input")


def _final_norms(model: nn.Module, stack: nn.ModuleList, paths: dict[nn.Module, str]) -> list[str]:
    """Normalisations that stand beside the block stack and after it (an embedding norm stands before)."""
    parent_path = paths[stack].rpartition(".")[0]
    children = list(model.get_submodule(parent_path).children())
    after = children[children.index(stack) + 1 :]
    return [paths[child] for child in after if _is_norm(child)]


def feature_mean(activation: Tensor) -> Tensor:
    """Mean over all axes but rows and positions, [rows, seq], in max(float32, dtype).

    Args:
      activation: [rows, seq, features] or, for attention, [rows, heads, seq, head size]; or flattened,
        [rows * seq, features], which gives [rows * seq].
    """
    axes = (1, 3) if activation.ndim == 4 else (-1,)
    return activation.mean(axes, dtype=torch.promote_types(torch.float32, activation.dtype))


class Recorder:
    """Hooks on a model that keep the feature mean of every site of the last forward pass.

    Args:
      model: the reference model, also inside a DeepSpeed engine; install after ``deepspeed.initialize``, so
        that ZeRO-3 has gathered the output head's weight when our hook reads it.
      sites: places to record.

    Attributes:
      means: of the last forward pass, each [rows, seq]; ``take`` hands them over.
      features: number of features behind every mean. A tensor-parallel process sees a part of them.
    """

    def __init__(self, model: nn.Module, sites: Iterable[Site]) -> None:
        self.means: dict[str, Tensor] = {}
        self.features: dict[str, int] = {}
        self._shape = torch.Size()
        embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self._handles = [embedding.register_forward_pre_hook(self._note_shape)]
        for site in sites:
            module = model.get_submodule(site.module)
            if site.name == "logits" and site.side == "input":
                handle = module.register_forward_pre_hook(self._logit_hook(site))
            elif site.side == "input":
                handle = module.register_forward_pre_hook(self._input_hook(site))
            else:
                handle = module.register_forward_hook(self._output_hook(site))
            self._handles.append(handle)

    def take(self) -> dict[str, Tensor]:
        """Return the means of the last forward pass, each [rows, seq], and forget them."""
        means, self.means = self.means, {}
        # OPT flattens rows and positions inside its MLP.
        return {name: value.reshape(self._shape) for name, value in means.items()}

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _note_shape(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._shape = inputs[0].shape

    def _keep(self, site: Site, value: Any) -> None:
        tensor: Tensor = (value[0] if isinstance(value, tuple) else value).detach()
        if site.features is not None:
            tensor = tensor[..., slice(*site.features)]
        self.means[site.name] = feature_mean(tensor)
        self.features[site.name] = tensor.numel() // self.means[site.name].numel()

    def _input_hook(self, site: Site) -> Any:
        return lambda _, inputs: self._keep(site, inputs)

    def _output_hook(self, site: Site) -> Any:
        return lambda _, __, output: self._keep(site, output)

    def _logit_hook(self, site: Site) -> Any:
        """The mean over the vocabulary of W h + b is mean(W) h + mean(b): no logits are needed."""

        def hook(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hidden = inputs[0].detach().float()
            matrix: Tensor = head.weight  # type: ignore[assignment]
            weight = matrix.detach().mean(0, dtype=torch.float32)
            bias = getattr(head, "bias", None)
            shift = 0.0 if bias is None else bias.detach().mean(dtype=torch.float32)
            self.means[site.name] = hidden @ weight + shift
            self.features[site.name] = matrix.shape[0]

        return hook
