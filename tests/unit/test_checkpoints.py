"""Which DeepSpeed checkpoints count, what they belong to, and what a kill leaves."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsepo_plugin.adapters.openrlhf import checkpoints, export, flags
from sparsepo_plugin.demo import tiny
from sparsepo_plugin.errors import UserError


def saved(folder, step, keep=5, **identity):
    checkpoints.begin(folder, f"global_step{step}")
    checkpoints.finish(folder, f"global_step{step}", {"processes": 1, "identity": identity}, keep)


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


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"loss": "mapo"}, "loss is 'mapo' now and was 'sparsepo'"),
        ({"options": {"masks": "common", "floor": 0.5}}, "options.floor is 0.5 now and was 0.0"),
        ({"data": {"content": "b"}}, "data.content is 'b' now and was 'a'"),
    ],
)
def test_another_run_is_refused_with_both_values(tmp_path, now, message):
    identity = {"loss": "sparsepo", "options": {"masks": "common", "floor": 0.0}, "data": {"content": "a"}}
    saved(tmp_path, 2, **identity)
    found = checkpoints.to_resume(tmp_path)
    checkpoints.check_same(found, identity, tmp_path)
    with pytest.raises(UserError, match=message) as error:
        checkpoints.check_same(found, {**identity, **now}, tmp_path)
    assert "\n" not in str(error.value)


def test_the_fingerprint_follows_the_content_of_files_and_folders(tmp_path):
    file, folder = tmp_path / "a.jsonl", tmp_path / "many"
    folder.mkdir()
    file.write_text("one")
    (folder / "x.jsonl").write_text("x")
    before = [
        checkpoints.fingerprint(value) for value in (str(file), str(folder), f"{file},{folder}", "org/hub")
    ]
    assert len(set(before)) == 4
    assert checkpoints.fingerprint(f"{file}@train") == before[0]
    file.write_text("two")
    (folder / "y.jsonl").write_text("y")
    after = [
        checkpoints.fingerprint(value) for value in (str(file), str(folder), f"{file},{folder}", "org/hub")
    ]
    assert [a == b for a, b in zip(before, after)] == [False, False, False, True]


def test_random_states_go_on_where_they_were(tmp_path):
    torch.manual_seed(5)
    checkpoints.save_random_state(tmp_path, 1)
    want = torch.rand(4)
    torch.manual_seed(9)
    assert checkpoints.load_random_state(tmp_path, 0) is None
    checkpoints.restore_random_state(checkpoints.load_random_state(tmp_path, 1))
    assert torch.equal(torch.rand(4), want)
    assert {path.name for path in tmp_path.iterdir()} == {"random_1.pt"}


def test_the_identity_holds_what_changes_the_numbers_and_nothing_else():
    def arguments(**changes):
        data = dict.fromkeys(checkpoints.DATA_KEYS)
        lora = SimpleNamespace(rank=0)
        return SimpleNamespace(
            data=SimpleNamespace(**{**data, "dataset": "org/name", **changes}),
            train=SimpleNamespace(batch_size=8, seed=1),
            model=SimpleNamespace(model_name_or_path="m", beta=0.1),
            ds=SimpleNamespace(zero_stage=2, lora=lora),
        )

    one = checkpoints.identity(arguments(), None)
    assert one["loss"] is None
    assert checkpoints.identity(arguments(max_len=7), None) != one
    assert json.loads(json.dumps(one)) == one


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
    plan = checkpoints.blueprint(arguments, None)
    assert plan["actor"]["attn_implementation"] == "flash_attention_2"
    state = {name: value + 1 for name, value in model.state_dict().items()}
    export._write_policy(plan, state, tmp_path / "out", False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight + 1)
    assert "flash" not in (tmp_path / "out/config.json").read_text()
