"""Run the trainer as a group of Ray actors, on a cluster or on this machine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.openrlhf import flags, preflight
from sparsepo_plugin.errors import RunFailedError, UserError

# Passed on to the actors, whose nodes may have another environment; so is what begins with the latter.
_ENVIRONMENT = (
    "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_TOKEN", "TOKENIZERS_PARALLELISM",
    "PYTHONPATH", "DS_ACCELERATOR", "WANDB_API_KEY", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
)  # fmt: skip
_FAMILIES = ("NCCL_", "GLOO_")


def run(argv: Sequence[str]) -> None:
    """Check on this machine, start ``--ray.num_nodes`` x ``--ray.gpus_per_node`` actors, wait for them.

    Args:
      argv: command line without the program name and without ``--ray``.

    Raises:
      UserError: bad input, no such cluster, or one with too few CPUs or GPUs.
      RunFailedError: an actor failed or was killed; the others are ended first.
    """
    parsed = flags.parse(argv)
    options = parsed.arguments.ray
    processes = options.num_nodes * options.gpus_per_node
    if processes < 1:
        raise UserError(
            f"--ray.num_nodes {options.num_nodes} --ray.gpus_per_node {options.gpus_per_node}: "
            f"expected at least 1 of each"
        )
    # Where a cluster is named its nodes are other machines: a driver needs no GPU, and its own says nothing.
    preflight.check(parsed, processes, elsewhere=bool(options.address))
    ray = _connect(options, processes)
    actors: list[Any] = []
    try:
        group = _start(ray, options, processes)
        actors = group._actor_handlers
        _wait(ray, group.async_run_method("train", with_absolute_config(argv), os.getcwd()))
    finally:
        # After a success they have nothing left to do, after a failure they wait for each other for ever.
        for actor in actors:
            ray.kill(actor)
        ray.shutdown()


def environment() -> dict[str, str]:
    """Variables of this process that actors get too."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_FAMILIES)
    }


def with_absolute_config(argv: Sequence[str]) -> list[str]:
    """A command line whose configuration file is found from any folder."""
    words = list(argv)
    for number, word in enumerate(words):
        if word == "--config" and number + 1 < len(words):
            words[number + 1] = os.path.abspath(words[number + 1])
        elif word.startswith("--config="):
            words[number] = f"--config={os.path.abspath(word.removeprefix('--config='))}"
    return words


def _connect(options: SimpleNamespace, processes: int) -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--ray: ray is not installed, expected ray==2.55.0; run `make install`") from None
    _check_reachable(options.address)
    common: dict[str, Any] = {"runtime_env": {"env_vars": environment()}, "logging_level": "warning"}
    try:
        if options.address:
            ray.init(address=options.address, **common)
        else:
            cpus = max(processes, os.cpu_count() or 1)
            ray.init(num_cpus=cpus, include_dashboard=False, **common)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--ray.address {options.address}: no Ray cluster can be reached ({reason})"
        ) from None
    return ray


def _check_reachable(address: str | None) -> None:
    """Ask before Ray does, which tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"--ray.address {address}: no Ray cluster can be reached ({error}); start it, or drop the flag"
        ) from None


def _start(ray: Any, options: SimpleNamespace, processes: int) -> Any:
    """Reserve one CPU, and one GPU where the cluster has any, per actor; start the actors."""
    from ray.util.placement_group import placement_group

    from sparsepo_plugin.adapters.openrlhf.ray_actor import TrainActor
    from sparsepo_plugin.adapters.openrlhf.standin import import_ray_launcher

    resources = ray.cluster_resources()
    gpu = resources.get("GPU", 0) > 0
    for kind in ("CPU", *(("GPU",) if gpu else ())):
        if resources.get(kind, 0) < processes:
            raise UserError(
                f"--ray: got a cluster with {resources.get(kind, 0):.0f} {kind}s, expected {processes} "
                f"(--ray.num_nodes {options.num_nodes} x --ray.gpus_per_node {options.gpus_per_node})"
            )
    bundle = {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}
    group = placement_group([bundle] * processes, strategy="PACK")
    ray.get(group.ready())
    return import_ray_launcher().RayActorGroup(
        options.num_nodes,
        options.gpus_per_node,
        ray.remote(TrainActor),
        pg=group,
        num_gpus_per_actor=int(gpu),
    )


def _wait(ray: Any, results: list[Any]) -> None:
    """Wait for all actors, and no longer than until the first one fails."""
    pending = results
    while pending:
        done, pending = ray.wait(pending, num_returns=1)
        try:
            code = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            print(error, file=sys.stderr, flush=True)  # the traceback of the actor
            raise RunFailedError("an actor failed, its traceback is above; the others were ended") from None
        except ray.exceptions.RayActorError as error:
            reason = " ".join(str(error).split())[:300]
            raise RunFailedError(f"an actor died, the others were ended: {reason}") from None
        if code:
            failure = UserError if code == UserError.exit_code else RunFailedError
            raise failure(f"an actor ended with exit code {code}; its message is in the log above")
