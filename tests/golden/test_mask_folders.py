"""One format of the mask module: what either trainer has saved reads the same in the other's environment."""

from __future__ import annotations

import json

import mask_folders
import numpy as np
import pytest

from sparsepo_plugin import checkpoint


@pytest.mark.parametrize("trainer", sorted(mask_folders.FOLDERS))
def test_a_mask_module_gives_the_masks_it_gave_where_it_was_trained(trainer):
    folder = mask_folders.FOLDERS[trainer]
    data = np.load(folder / "masks.npz")
    reward, kl = mask_folders.masks_of(folder, data["hidden"])
    np.testing.assert_allclose(reward, data["reward"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(kl, data["kl"], atol=1e-6, rtol=0)
    assert not np.allclose(reward, kl)
    response = np.array(mask_folders.RESPONSE, dtype=bool)
    assert (reward[response] >= 0).all()
    assert reward[response].std() > 0


def test_both_trainers_write_the_same_record():
    records = []
    for folder in mask_folders.FOLDERS.values():
        record = json.loads((folder / checkpoint.RECORD).read_text())
        records.append({key: record[key] for key in ("schema_version", "loss", "options", "reference_shape")})
    assert records[0] == records[1]
