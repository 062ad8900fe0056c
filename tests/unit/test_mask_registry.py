"""Mask sources by name: one file and one decorator; the rest of the package learns of them by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sparsepo_plugin import registry
from sparsepo_plugin.losses.sparsepo import SparsePOOptions
from sparsepo_plugin.masks.random import RandomOptions
from sparsepo_plugin.options import LossOptions, MaskOptions, option, option_rows
from sparsepo_plugin.types import Needs, ReferenceShape, ReferenceState

PLUGIN = '''
from dataclasses import dataclass

import torch
from torch import nn

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.options import MaskOptions, option
from sparsepo_plugin.registry import register_mask
from sparsepo_plugin.types import Masks


@dataclass(frozen=True)
class EarlyOptions(MaskOptions):
    first: int = option(3, "tokens kept", least=1)

    def validate(self):
        super().validate()
        if self.first == 13:
            raise UserError("option first: got 13, expected luck")


@register_mask("early", EarlyOptions)
def early(options, shape, seed):
    """The first tokens of a response, no others."""
    return Early(options.first)


class Early(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first = first

    def forward(self, reference):
        place = reference.response_mask.long().cumsum(-1)
        mask = ((place >= 1) & (place <= self.first)).float()
        return Masks(mask, mask)
'''
USE = """
import json, sys
from pathlib import Path

import torch
from sparsepo_plugin import checkpoint, registry
from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.types import ReferenceShape, ReferenceState

parsed = flags.parse(["--loss", "sparsepo", "--sparsepo.source", "early", "--sparsepo.first", "2"])
objective = ConfiguredLoss(parsed.loss, parsed.options, ReferenceShape(8, 2))
masks = objective.build_masks(0)(ReferenceState((), torch.tensor([[False, True, True, True]])))
needs = objective.needs
folder = Path(sys.argv[1])
checkpoint.save_masks(folder, {"unused": torch.zeros(1)}, objective.record())
try:
    flags.parse(["--loss", "sparsepo", "--sparsepo.first", "13"])
except UserError as error:
    refused = str(error)
print(json.dumps({
    "mask": masks.reward_mask.tolist(),
    "needs": [needs.token_kl, needs.hidden_states],
    "learned": parsed.options.learned,
    "again": checkpoint.initial_masks(folder, 0).first,
    "refused": refused,
}))
"""


def test_another_packages_mask_source_is_found_and_its_options_are_flags(tmp_path):
    info = tmp_path / "early_mask-1.0.dist-info"
    info.mkdir()
    (tmp_path / "early_mask.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: early-mask\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparsepo.masks]\nearly = early_mask\n")
    source = Path(registry.__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(source)!r}]\n{USE}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "mask": [[0.0, 1.0, 1.0, 0.0]],
        "needs": [True, False],
        "learned": False,
        "again": 2,
        "refused": "option first: got 13, expected luck",
    }


def test_every_source_is_a_choice_of_sparsepo_with_its_options_and_needs():
    rows = {row.name: row for row in option_rows(SparsePOOptions)}
    sources = registry.mask_sources()
    assert rows["source"].choices == tuple(sources) == ("binary", "column", "learned", "random", "uniform")
    for name, source in sources.items():
        assert source.summary
        assert f"{name}: {source.summary.rstrip('.')}" in rows["source"].help
        assert {row.name for row in option_rows(source.options)} <= set(rows)
        options = SparsePOOptions(source=name)
        assert options.learned is source.learned is options.needs().hidden_states
        weighted = name == "column"
        assert options.needs() == Needs(token_kl=True, hidden_states=source.learned, token_weights=weighted)


def test_what_a_release_could_be_told_it_can_be_told_still():
    names = "anchor anchor_weight record preset masks mask_on source density layers width layer_activation"
    names += " mixer_activation dropout reward_l1 kl_l1 mask_lr mask_lr_scale mask_weight_decay init"
    names += " normalise floor token top"
    assert {row.name for row in option_rows(SparsePOOptions)} >= set(names.split())


def test_a_name_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="mask source 'random' is registered twice"):

        @registry.register_mask("random")
        def other(options, shape, seed):
            """Another."""


def test_an_option_cannot_be_declared_twice(monkeypatch):
    @dataclass(frozen=True)
    class Other(MaskOptions):
        density: float = option(0.9, "how thick")

    monkeypatch.setattr(registry, "_MASKS", dict(registry.mask_sources()))
    registry.register_mask("other", Other)(lambda options, shape, seed: None)
    with pytest.raises(ValueError, match="option density is declared by"):
        registry.mask_options()


def test_sources_may_share_options_and_add_to_them(monkeypatch):
    @dataclass(frozen=True)
    class More(RandomOptions):
        shift: float = option(0.0, "how far")

    monkeypatch.setattr(registry, "_MASKS", dict(registry.mask_sources()))
    registry.register_mask("more", More)(lambda options, shape, seed: None)
    names = [row.name for row in option_rows(registry.mask_options())]
    assert names.count("density") == names.count("shift") == 1


def test_an_option_of_the_loss_is_none_of_a_mask_source():
    loss = {row.name for row in option_rows(LossOptions)}
    assert not loss & {row.name for row in option_rows(registry.mask_options())}


def test_masks_of_the_data_are_its_weights_1_where_it_has_none():
    masks = SparsePOOptions(source="column").build_masks(ReferenceShape(4, 1), seed=0)
    response = torch.tensor([[True, True, False], [True, False, False]])
    weights = torch.tensor([[0.5, torch.nan, 9.0], [2.0, torch.nan, torch.nan]])
    found = masks(ReferenceState((), response, token_weights=weights))
    assert found.reward_mask.tolist() == found.kl_mask.tolist() == [[0.5, 1.0, 0.0], [2.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="masks of the data need token_weights"):
        masks(ReferenceState((), response))
