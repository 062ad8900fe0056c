"""A Ray run's driver may have no GPU, another folder and other variables than its actors."""

from __future__ import annotations

import pytest

from sparsepo_plugin.adapters.openrlhf import flags, mode_check, ray_launch
from sparsepo_plugin.errors import UserError

ON_GPUS = {
    "flash": ["--ds.attn_implementation", "flash_attention_2"],
    "flash 3": ["--ds.attn_implementation", "flash_attention_3"],
    "fp16": ["--ds.param_dtype", "fp16"],
    "deepcompile": ["--ds.deepcompile"],
}


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_driver_without_a_gpu_lets_pass_what_needs_one_elsewhere(name, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = flags.parse(ON_GPUS[name]).arguments
    with pytest.raises(UserError, match="CUDA"):
        mode_check.check_modes(arguments, None, 1)
    mode_check.check_modes(arguments, None, 1, elsewhere=True)


def test_what_is_wrong_anywhere_is_still_refused():
    arguments = flags.parse(["--ds.zero_stage", "7"]).arguments
    with pytest.raises(UserError, match="zero_stage"):
        mode_check.check_modes(arguments, None, 1, elsewhere=True)


@pytest.mark.parametrize("address", ["ray://head:10001", None])
def test_a_named_cluster_is_elsewhere(address, monkeypatch):
    asked = {}

    def check(parsed, processes, *, elsewhere):
        asked.update(processes=processes, elsewhere=elsewhere)
        raise UserError("far enough")

    monkeypatch.setattr(ray_launch.preflight, "check", check)
    given = ["--ray.address", address] if address else []
    with pytest.raises(UserError, match="far enough"):
        ray_launch.run([*given, "--ray.gpus_per_node", "2"])
    assert asked == {"processes": 2, "elsewhere": address is not None}


def test_network_settings_and_tokens_reach_the_actors(monkeypatch):
    given = {
        "NCCL_SOCKET_IFNAME": "eth1", "NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "eth1", "HF_TOKEN": "hf_x",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }  # fmt: skip
    for name, value in {**given, "UNRELATED": "x"}.items():
        monkeypatch.setenv(name, value)
    found = ray_launch.environment()
    assert given.items() <= found.items()
    assert "UNRELATED" not in found


@pytest.mark.parametrize("form", [["--config", "runs/a.yaml"], ["--config=runs/a.yaml"]])
def test_a_configuration_file_is_found_from_the_actors_folder(form, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = ray_launch.with_absolute_config([*form, "--adam.lr", "1e-6"])
    assert " ".join(found).replace("=", " ") == f"--config {tmp_path}/runs/a.yaml --adam.lr 1e-6"
    assert ray_launch.with_absolute_config(found) == found


def test_an_actor_goes_where_the_run_was_started(monkeypatch, tmp_path):
    ray_actor = pytest.importorskip("sparsepo_plugin.adapters.openrlhf.ray_actor")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    ray_actor.enter(str(tmp_path / "here"), "out")
    assert ray_actor.Path.cwd() == tmp_path / "here"
    with pytest.raises(UserError, match="expected a folder that all nodes share, or absolute paths"):
        ray_actor.enter(str(tmp_path / "nowhere"), "out")
    ray_actor.enter(str(tmp_path / "nowhere"), "/shared/out")
    assert ray_actor.Path.cwd() == tmp_path / "here"
