"""Which DeepSpeed checkpoints count, what they belong to, and what a kill leaves."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsepo_plugin.adapters.openrlhf import checkpoints, export, flags, run_identity
from sparsepo_plugin.demo import tiny
from sparsepo_plugin.errors import UserError


def saved(folder, step, keep=5):
    checkpoints.begin(folder, f"global_step{step}")
    checkpoints.finish(folder, f"global_step{step}", {"processes": 1, "identity": {}}, keep)


def test_a_checkpoint_counts_once_it_is_finished(tmp_path):
    assert checkpoints.to_resume(tmp_path) is None
    checkpoints.begin(tmp_path, "global_step3")
    assert checkpoints.to_resume(tmp_path) is None
    checkpoints.finish(tmp_path, "global_step3", {"processes": 2, "identity": {}}, 3)
    found = checkpoints.to_resume(tmp_path)
    assert (found.tag, found.step, found.record["processes"]) == ("global_step3", 3, 2)
    assert (tmp_path / "latest").read_text() == "global_step3"


def test_the_newest_complete_one_is_taken_where_a_later_one_is_not(tmp_path):
    for step in (2, 10, 4):
        saved(tmp_path, step)
    (tmp_path / "latest").unlink()
    assert checkpoints.to_resume(tmp_path).step == 10
    checkpoints.begin(tmp_path, "global_step12")
    (tmp_path / "global_step12/half").write_text("x")
    assert checkpoints.to_resume(tmp_path).step == 10
    assert checkpoints.remove_partial(tmp_path) == ["global_step12"]
    assert not (tmp_path / "global_step12").exists()
    assert len(checkpoints.complete(tmp_path)) == 3


def test_the_one_that_latest_names_wins(tmp_path):
    for step in (2, 4):
        saved(tmp_path, step)
    (tmp_path / "latest").write_text("global_step2")
    assert checkpoints.to_resume(tmp_path).step == 2
    (tmp_path / "latest").write_text("")  # upstream alone may leave it empty when killed
    assert checkpoints.to_resume(tmp_path).step == 4


def test_writing_over_a_complete_checkpoint_makes_it_partial_until_it_is_done(tmp_path):
    saved(tmp_path, 2)
    checkpoints.begin(tmp_path, "global_step2")
    assert checkpoints.complete(tmp_path) == []


def test_old_ones_go_only_after_the_new_one_is_complete_and_others_stay(tmp_path):
    (tmp_path / "global_step9_hf").mkdir()
    for step in (1, 2, 3):
        saved(tmp_path, step, keep=2)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "global_step2",
        "global_step3",
        "global_step9_hf",
    }
    saved(tmp_path, 4, keep=0)
    assert [item.step for item in checkpoints.complete(tmp_path)] == [4]


def test_a_folder_of_upstreams_own_checkpoints_is_told_apart(tmp_path):
    assert not checkpoints.foreign(tmp_path)
    (tmp_path / "latest").write_text("global_step1")
    assert checkpoints.foreign(tmp_path)
    checkpoints.begin(tmp_path, "global_step2")
    assert not checkpoints.foreign(tmp_path)


def whole(folder, *steps):
    """Checkpoints with files as DeepSpeed writes them."""
    for step in steps:
        tag = f"global_step{step}"
        checkpoints.begin(folder, tag)
        for name in ("mp_rank_00_model_states.pt", "bf16_optim_states.pt", "random_0.pt"):
            (folder / tag / name).write_bytes(f"{name} {step}".encode() * 50)
        checkpoints.finish(folder, tag, {"processes": 1, "identity": {}}, 9)


DAMAGE = {
    "cut": lambda place, name: (place / name).write_bytes((place / name).read_bytes()[:40]),
    "missing": lambda place, name: (place / name).unlink(),
    "changed": lambda place, name: (place / name).write_bytes(b"x" * (place / name).stat().st_size),
}
SAID = {
    "cut": "has 40 bytes, expected",
    "missing": "is missing",
    "changed": "has other content than was written",
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "bf16_optim_states.pt", "random_0.pt"])
def test_a_damaged_file_is_named_and_the_last_whole_checkpoint_taken(name, how, tmp_path):
    whole(tmp_path, 2, 4, 6)
    DAMAGE[how](tmp_path / "global_step6", name)
    found = checkpoints.look(tmp_path)
    assert found.saved.tag == "global_step4"
    assert list(found.damaged) == ["global_step6"]
    assert found.damaged["global_step6"].startswith(f"{name} {SAID[how]}")
    for step in (2, 4):
        DAMAGE[how](tmp_path / f"global_step{step}", name)
    with pytest.raises(UserError, match=r"global_step6: .*, and no other checkpoint there is whole") as error:
        checkpoints.to_resume(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda marker: marker.unlink(), "sparsepo_complete.json is missing"),
        (lambda marker: marker.write_text('{"step": 6, "proc'), "sparsepo_complete.json cannot be read"),
        (lambda marker: marker.write_text("[]"), "sparsepo_complete.json cannot be read"),
        (lambda marker: marker.write_bytes(b"\xff\xfe"), "sparsepo_complete.json cannot be read"),
    ],
)
def test_a_lost_marker_is_no_reason_to_start_again(damage, reason, tmp_path):
    whole(tmp_path, 6)
    damage(tmp_path / "global_step6" / checkpoints.COMPLETE)
    assert not checkpoints.foreign(tmp_path)
    with pytest.raises(UserError, match=reason):
        checkpoints.to_resume(tmp_path)
    whole(tmp_path, 4)
    assert checkpoints.look(tmp_path) == (checkpoints.complete(tmp_path)[0], {"global_step6": reason})


def test_damaged_ones_do_not_take_the_place_of_whole_ones(tmp_path):
    whole(tmp_path, 4, 6)
    DAMAGE["cut"](tmp_path / "global_step6", "random_0.pt")
    checkpoints.set_aside(tmp_path, checkpoints.look(tmp_path).damaged)
    saved(tmp_path, 5, keep=1)
    assert checkpoints.to_resume(tmp_path).tag == "global_step5"


def test_the_one_just_written_stays_beside_later_ones_of_a_run_that_went_back(tmp_path):
    whole(tmp_path, 2, 4, 6)
    saved(tmp_path, 3, keep=1)
    assert [item.step for item in checkpoints.complete(tmp_path)] == [3]


def test_nothing_of_an_earlier_checkpoint_of_that_name_stays(tmp_path):
    whole(tmp_path, 2)
    (tmp_path / "global_step2/bf16_zero_pp_rank_1_optim_states.pt").write_text("of a second process")
    (tmp_path / "global_step2_universal").mkdir()
    whole(tmp_path, 2)
    assert not (tmp_path / "global_step2/bf16_zero_pp_rank_1_optim_states.pt").exists()
    assert not (tmp_path / "global_step2_universal").exists()


def test_only_checkpoints_make_room_for_checkpoints(tmp_path):
    (tmp_path / "my data").mkdir()
    for step in (1, 2, 3):
        saved(tmp_path, step, keep=2)
        (tmp_path / f"global_step{step}_hf").mkdir()
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"my data", "global_step2", "global_step3", "global_step2_hf", "global_step3_hf"}


def test_checkpoints_take_no_more_than_they_may(tmp_path):
    whole(tmp_path, 1, 2, 3)
    checkpoints.begin(tmp_path, "global_step4")
    (tmp_path / "global_step4/data").write_bytes(bytes(4000))
    one = sum(file.stat().st_size for file in (tmp_path / "global_step3").iterdir())
    most = (4000 + 1000 + one * 1.5) / 1024**3
    checkpoints.finish(tmp_path, "global_step4", {"processes": 1}, 9, most)
    assert [item.step for item in checkpoints.complete(tmp_path)] == [4, 3]


def test_random_states_go_on_where_they_were(tmp_path):
    torch.manual_seed(5)
    checkpoints.save_random_state(tmp_path, 1)
    want = torch.rand(4)
    torch.manual_seed(9)
    assert checkpoints.load_random_state(tmp_path, 0) is None
    checkpoints.restore_random_state(checkpoints.load_random_state(tmp_path, 1))
    assert torch.equal(torch.rand(4), want)
    assert {path.name for path in tmp_path.iterdir()} == {"random_1.pt"}


def test_a_run_with_flash_attention_is_exported_where_it_is_not_installed(tmp_path):
    tokenizer = tiny.build_tokenizer([f"w{number}" for number in range(30)])
    model = tiny.build_model(tokenizer, hidden_size=16, heads=2)
    tiny.save_tiny(tmp_path / "base", model, tokenizer)
    arguments = flags.parse(
        [
            "--model.model_name_or_path",
            str(tmp_path / "base"),
            "--ds.param_dtype",
            "fp32",
            "--data.dataset",
            "x",
        ]
    ).arguments
    arguments.ds.attn_implementation = "flash_attention_2"
    plan = run_identity.blueprint(arguments, None)
    assert plan["actor"]["attn_implementation"] == "flash_attention_2"
    state = {name: value + 1 for name, value in model.state_dict().items()}
    export._write_policy(plan, state, tmp_path / "out", False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight + 1)
    assert "flash" not in (tmp_path / "out/config.json").read_text()
