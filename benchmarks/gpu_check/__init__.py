"""All evidence from one GPU: correctness on the device, speed, whole runs, longest rows; one command.

    python -m benchmarks.gpu_check --call 1 --out runs/gpu      # then 2, 3, 4: at most 10 minutes each
    python -m benchmarks.gpu_check --tiny --out runs/gpu-tiny   # the whole rehearsed on CPU, in minutes
    python -m benchmarks.gpu_check.table runs/gpu/results.jsonl docs/performance.md

Every step is a process of its own with a time limit, so that a device error or a kernel that hangs ends that
step alone. As a step ends, a line goes to results.jsonl: name, status (ok, failed, timeout, skipped),
seconds, numbers, the end of what it printed. Steps are ordered by the worth of what they say. A step that a
results file holds as ok, of the same commit, device and size, is not run again.
"""
