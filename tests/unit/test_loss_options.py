"""Options: declared once, checked, listed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from batches import by_term

from sparsepo_plugin import registry
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.losses.sparsepo import SparsePOOptions
from sparsepo_plugin.masks.learned import LearnedMasks
from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.options import LossOptions, option, option_rows
from sparsepo_plugin.types import ReferenceShape


@dataclass(frozen=True)
class Sample(LossOptions):
    colour: str = option("red", "which colour", choices=("red", "blue"))
    weight: float = option(0.5, "how heavy", least=0.0)
    rate: float | None = option(None, "a rate or nothing", least=0.0)
    count: int = option(3, "how many", least=1)


def test_rows_list_every_field_with_kind_default_choices_and_help():
    rows = {row.name: row for row in option_rows(Sample)}
    assert list(rows)[-4:] == ["colour", "weight", "rate", "count"]
    assert rows["colour"] == ("colour", str, "red", ("red", "blue"), "which colour")
    assert (rows["rate"].kind, rows["rate"].default) == (float, None)
    assert rows["count"].kind is int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "green"}, "option colour: got 'green', expected one of red, blue"),
        ({"weight": -0.1}, "option weight: got -0.1, expected a number >= 0.0"),
        ({"weight": float("nan")}, "option weight: got nan, expected a number >= 0.0"),
        ({"rate": -1.0}, "option rate: got -1.0, expected a number >= 0.0"),
        ({"count": 0}, "option count: got 0, expected a number >= 1"),
    ],
)
def test_a_value_outside_its_declaration_is_refused(values, message):
    with pytest.raises(UserError) as error:
        Sample(**values).validate()
    assert str(error.value) == message


def test_values_inside_their_declaration_pass():
    Sample().validate()
    Sample(colour="blue", weight=0.0, rate=0.0, count=1).validate()


def test_the_mask_learning_rate_is_ten_times_the_policys_or_as_given():
    assert SparsePOOptions().mask_learning_rate(3e-5) == pytest.approx(3e-4)
    assert SparsePOOptions.build({"preset": "paper"}).mask_learning_rate(3e-5) == 3e-5
    assert SparsePOOptions(mask_lr=0.0).mask_learning_rate(3e-5) == 0.0
    assert LossOptions().mask_learning_rate(3e-5) == 3e-5
    assert (SparsePOOptions(mask_weight_decay=0.2).mask_decay(), LossOptions().mask_decay()) == (0.2, 0.0)


def test_options_build_the_mask_source_they_describe():
    shape = ReferenceShape(8, 3)
    assert isinstance(LossOptions().build_masks(shape, 0), OnesMask)
    for mask_on, masks, names in [
        ("both", "common", ["common"]),
        ("both", "independent", ["reward", "kl"]),
        ("reward", "common", ["reward"]),
        ("kl", "independent", ["kl"]),
    ]:
        source = SparsePOOptions(masks=masks, mask_on=mask_on).build_masks(shape, 0)
        assert isinstance(source, LearnedMasks)
        assert list(by_term(source)) == names


def test_dropout_of_one_or_more_is_refused():
    with pytest.raises(UserError, match=r"dropout"):
        SparsePOOptions(dropout=1.0).validate()


# ---------------------------------------------------------------- a default that became another


def test_sparsepo_has_the_registered_anchor_and_the_published_method_none():
    """docs/mask-anchor-plan.md: "ahead" makes the chosen anchor the default; ``preset: paper`` keeps none."""
    assert SparsePOOptions.build({}).anchor == 3.0
    assert SparsePOOptions.build({"preset": "paper"}).anchor == 0.0
    assert SparsePOOptions.build({"preset": "paper", "anchor": 1.0}).anchor == 1.0
    others = [name for name in registry.names() if name != "sparsepo"]
    assert {registry.get(name).options().anchor for name in others} == {0.0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "learned (one mask), normalise mean, anchor 3; preset paper is the published method"),
        ({"preset": "paper"}, "learned (one mask), normalise none, anchor 0; as published"),
        (
            {"preset": "paper", "masks": "independent", "reward_l1": 0.1},
            "learned (two masks), normalise none, anchor 0; as published",
        ),
        (
            {"preset": "paper", "anchor": 0.5},
            "learned (one mask), normalise none, anchor 0.5; preset paper is the published method",
        ),
        (
            {"preset": "paper", "source": "uniform"},
            "uniform (one mask), normalise none, anchor 0; preset paper is the published method",
        ),
    ],
)
def test_the_options_say_which_form_of_the_method_they_are(given, said):
    options = SparsePOOptions.build(given)
    assert options.lines("sparsepo", options) == [f"sparsepo: {said}"]
    assert LossOptions().lines("dpo", LossOptions()) == []


@pytest.mark.parametrize(
    ("recorded", "given", "anchor"),
    [
        ({"anchor": 0.0}, (), 0.0),  # an earlier version's default
        ({"anchor": 0.0}, ("anchor",), 3.0),  # the user decides
        ({"anchor": 0.3}, (), 3.0),  # no default of any version: a user gave it then, and must again
        ({"anchor": 3.0}, (), 3.0),
        ({}, (), 3.0),
    ],
)
def test_a_run_that_an_earlier_version_began_keeps_its_default(recorded, given, anchor):
    asked = SparsePOOptions.build({"masks": "independent"})
    kept = asked.as_begun(recorded, given)
    assert kept == replace(asked, anchor=anchor)
    assert [line for line in kept.lines("sparsepo", asked) if "stays" in line] == (
        []
        if anchor
        else [
            "sparsepo: anchor stays 0.0, as this run was begun by an earlier version (now 3.0 where it is "
            "not named)"
        ]
    )
