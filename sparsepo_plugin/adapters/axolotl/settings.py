"""The plugin's keys of a configuration: a pydantic model generated from the losses' options, and checks."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model

from sparsepo_plugin import registry
from sparsepo_plugin.adapters import reference_logps
from sparsepo_plugin.adapters.axolotl.keys import looks_ours
from sparsepo_plugin.adapters.trl.arguments import build_options
from sparsepo_plugin.adapters.trl.refusals import REASONS, check_fsdp_version, check_optimizer
from sparsepo_plugin.errors import UserError, unknown
from sparsepo_plugin.options import LossOptions, OptionRow, option_rows


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number was expected, not true or false")
    return value


def _kind(row: OptionRow) -> Any:
    if row.choices:
        return Literal[row.choices]
    number = row.kind in (int, float)
    return Annotated[row.kind, BeforeValidator(_no_bool)] if number else row.kind


def section(loss: registry.Loss) -> type[BaseModel]:
    """Generate the model of a loss's section; what is not given stays None, so that presets can fill it."""
    fields: dict[str, Any] = {row.name: (_kind(row) | None, None) for row in option_rows(loss.options)}
    return create_model(f"{loss.name}_options", __config__=ConfigDict(extra="forbid"), **fields)


SECTIONS: dict[str, type[BaseModel]] = {name: section(registry.get(name)) for name in registry.names()}

_OPTIONAL_SECTIONS: dict[str, Any] = {name: (model | None, None) for name, model in SECTIONS.items()}
SparsePOArgs: type[BaseModel] = create_model(
    "SparsePOArgs", preference_loss=(str | None, None), **_OPTIONAL_SECTIONS
)


def training_arguments(cfg: Any) -> dict[str, Any]:
    """Values of PreferenceArguments for a validated configuration."""
    return {
        "preference_loss": cfg["preference_loss"],
        "loss_options": _given(cfg, cfg["preference_loss"]),
    }


def check(cfg: Any, trainer: str) -> str:
    """Check a raw configuration; anything upstream would ignore or contradict is refused by name.

    Args:
      cfg: the configuration as read from the file.
      trainer: what the plugin will name as ``trainer_cls``.

    Returns:
      The loss and its options, in words.

    Raises:
      UserError: the first thing found wrong.
    """
    chosen = cfg.get("preference_loss")
    _check_names(cfg, chosen)
    loss = registry.get(chosen)
    options = _options(loss, cfg.get(chosen))
    if (rl := _text(cfg.get("rl"))) != "dpo":
        raise UserError(
            f"rl: got {rl!r}, expected dpo with preference_loss {chosen}: it runs in upstream's DPO trainer"
        )
    if cfg.get("trainer_cls") not in (None, trainer):
        raise UserError(f"trainer_cls: got {cfg['trainer_cls']}, expected none: the plugin sets it; drop it")
    for name, reason in _REFUSED.items():
        if _is_set(cfg.get(name)):
            raise UserError(
                f"{name}: got {_text(cfg.get(name))!r}, expected none with preference_loss {chosen}: "
                f"{reason}; drop {name}"
            )
    _check_fsdp_version(cfg)
    for name in _PARALLEL:
        if cfg.get(name) and int(cfg[name]) > 1:
            raise UserError(f"{name}: got {cfg[name]}, expected 1: {_SHARDED}; drop {name}")
    if cfg.get("precompute_ref_log_probs"):
        reference_logps.check(options.needs(), "precompute_ref_log_probs", f"preference_loss {chosen}")
    if options.learned:
        _check_optimizer(cfg)
    return f"{loss.name}, {options}"


_SHARDED = "it splits rows and matrices over processes, which is tested with OpenRLHF only (`sparsepo train`)"
_REFUSED = {
    **{
        f"dpo_{name}": REASONS[name]
        for name in (
            "use_liger_kernel",
            "padding_free",
            "loss_type",
            "loss_weights",
            "use_weighting",
            "label_smoothing",
        )
    },
    "pad_to_multiple_of": "upstream's collator for it makes batches of an older TRL",
    "relora": "it merges weights into the policy past the trainer",
    "use_ray": "it is not tested",
}
_PARALLEL = ("context_parallel_size", "tensor_parallel_size", "dp_shard_size")


def _check_names(cfg: Any, chosen: Any) -> None:
    names = registry.names()
    for key in map(str, cfg):
        if key not in ("preference_loss", *names) and looks_ours(key):
            raise unknown("key", key, ("preference_loss", *names))
    if chosen is None:
        raise UserError(f"preference_loss: got none, expected one of {', '.join(names)}; or drop the plugin")
    if chosen not in names:
        raise unknown("preference_loss", str(chosen), names)
    for name in names:
        if name != chosen and cfg.get(name) is not None:
            raise UserError(
                f"section {name} given with preference_loss {chosen}: expected preference_loss {name}, or no "
                f"such section"
            )


def _options(loss: registry.Loss, given: Any) -> LossOptions:
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"section {loss.name}: got {given!r}, expected options as `name: value`")
    plain = {str(key): value for key, value in (given or {}).items()}
    try:
        checked = SECTIONS[loss.name](**plain)
    except ValidationError as error:
        raise _in_one_line(loss, error) from None
    return build_options(loss, checked.model_dump(exclude_none=True))


def _in_one_line(loss: registry.Loss, error: ValidationError) -> UserError:
    """The first complaint of pydantic, in our words and with the option's full name."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    rows = {row.name: row for row in option_rows(loss.options)}
    if first["type"] == "extra_forbidden":
        return unknown(f"option of {loss.name}", name, rows)
    row = rows[name]
    numbers = {float: "a number", int: "an integer", str: "text"}
    expected = f"one of {', '.join(row.choices)}" if row.choices else numbers[row.kind]
    return UserError(f"{loss.name}.{name}: got {first['input']!r}, expected {expected}")


def _given(cfg: Any, name: str) -> dict[str, Any]:
    checked = SECTIONS[name](**dict(cfg.get(name) or {}))
    return checked.model_dump(exclude_none=True)


def _is_set(value: Any) -> bool:
    return value not in (None, False, 0, 0.0, "", [], {})


def _text(value: Any) -> Any:
    return getattr(value, "value", value)


def _check_fsdp_version(cfg: Any) -> None:
    given = cfg.get("fsdp_config")
    if not (given or cfg.get("fsdp")):
        return
    inside = given if isinstance(given, Mapping) else {}
    versions = (cfg.get("fsdp_version"), inside.get("fsdp_version"))
    check_fsdp_version(next((version for version in versions if version is not None), 1))


def _check_optimizer(cfg: Any) -> None:
    check_optimizer(SimpleNamespace(optimizer=cfg.get("optimizer")), "optimizer")
    if (scheduler := _text(cfg.get("lr_scheduler"))) in ("one_cycle", "rex"):
        raise UserError(
            f"lr_scheduler: got {scheduler!r}, expected one that keeps every group's own rate, such as "
            f"cosine: this one gives the mask module the policy's"
        )
