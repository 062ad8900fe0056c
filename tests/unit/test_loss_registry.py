"""Losses by name: look-up, near matches, duplicates, plugins of other packages."""

from __future__ import annotations

import sys

import pytest
from training import plugin_package

from sparsepo_plugin import registry
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.options import LossOptions, option_rows


@pytest.fixture(autouse=True)
def _own_table(monkeypatch):
    """Registrations of a test do not reach the next one."""
    registry.names()
    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))


def test_the_package_registers_its_losses_with_a_summary():
    assert {"dpo", "sparsepo"} <= set(registry.names())
    for name in registry.names():
        loss = registry.get(name)
        assert loss.name == name
        assert loss.summary
        assert "\n" not in loss.summary


@pytest.mark.parametrize(
    ("typo", "near"), [("sparsopo", "sparsepo"), ("dop", "dpo"), ("SparsePO", "sparsepo")]
)
def test_an_unknown_name_is_answered_with_near_matches_and_all_names(typo, near):
    with pytest.raises(UserError) as error:
        registry.get(typo)
    hint, listed = str(error.value).split("? available: ")
    assert hint.startswith(f"unknown loss {typo!r}: did you mean ")
    assert near in hint.split("did you mean ")[1].split(" or ")
    assert listed.split(", ") == registry.names()


def test_a_name_like_no_other_gets_no_false_hint():
    with pytest.raises(UserError, match=r"unknown loss 'zzz': available: "):
        registry.get("zzz")


def test_a_name_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="'dpo' is registered twice"):

        @registry.register_loss("dpo")
        def other(stats, masks, beta, options):
            """Not DPO."""

    assert registry.get("dpo").function.__name__ == "dpo"


def test_registering_the_same_function_again_is_allowed_so_that_modules_can_be_reloaded():
    loss = registry.get("dpo")
    registry.register_loss("dpo")(loss.function)
    assert registry.get("dpo").function is loss.function


def test_another_packages_loss_is_found_through_its_entry_point(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin_package(tmp_path)))
    try:
        assert "gentle" in registry.names()
        loss = registry.get("gentle")
        assert loss.summary == "Gentle: a loss of another package."
        assert option_rows(loss.options)[-1].name == "strength"
        from sparsepo_plugin.adapters.openrlhf import flags

        parsed = flags.parse(["--loss", "gentle", "--gentle.strength", "0.25"])
        assert parsed.options.strength == 0.25
    finally:
        sys.modules.pop("gentle_loss", None)


def test_a_loss_without_options_needs_nothing_but_the_reference():
    needs = registry.get("dpo").options().needs()
    assert (needs.reference, needs.token_kl, needs.hidden_states) == (True, False, False)
    assert not registry.get("dpo").options().learned
    assert not any(row.default for row in option_rows(LossOptions) if row.kind is not str)
    needs = registry.get("sparsepo").options().needs()
    assert (needs.reference, needs.token_kl, needs.hidden_states) == (True, True, True)
