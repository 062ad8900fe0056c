"""Attributes are replaced inside the block and are back after it, whatever happens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sparsepo_plugin.patched import patched


def test_attributes_are_replaced_inside_and_restored_after():
    owner = SimpleNamespace(a=1, b=2)
    with patched(owner, a=10, b=20):
        assert (owner.a, owner.b) == (10, 20)
    assert (owner.a, owner.b) == (1, 2)


def test_an_error_inside_still_restores():
    owner = SimpleNamespace(a=1)
    with pytest.raises(KeyError), patched(owner, a=10):
        raise KeyError
    assert owner.a == 1


def test_a_name_the_owner_lacks_is_an_error_and_changes_nothing():
    owner = SimpleNamespace(a=1)
    with pytest.raises(AttributeError, match="gone"), patched(owner, a=10, gone=3):
        pytest.fail("the block must not run")
    assert vars(owner) == {"a": 1}
