"""Leave the process group before the interpreter goes: a finished training is not aborted at its exit."""

from __future__ import annotations

import atexit
import functools
import gc
import time

_SETTLE_SECONDS = 0.2


@functools.cache
def leave_group_at_exit() -> None:
    """Register, once per process, what ends its gloo process group before Python's threads are gone.

    gloo's worker threads drop the tensors of the last collective after it has returned, and need the
    interpreter's lock for it. A thread that asks for the lock while the interpreter is being taken down is
    unwound through a destructor: "terminate called without an active exception", exit code -6, although
    everything was trained and saved. Seen in one of about twenty runs of two processes on a loaded machine.
    """
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as dist

    # NCCL's threads hold no Python tensors, and its end can wait for a process that has failed.
    if not dist.is_available() or not dist.is_initialized() or dist.get_backend() != "gloo":
        return
    dist.destroy_process_group()
    gc.collect()  # a group without references joins its threads
    # DeepSpeed and device meshes keep some groups: while this thread sleeps, theirs get the lock and finish.
    time.sleep(_SETTLE_SECONDS)
