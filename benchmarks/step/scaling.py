"""How time and memory of the token statistics grow with tokens and vocabulary.

    python -m benchmarks.step.scaling

From hidden states [tokens, hidden] and heads [vocabulary, hidden] of policy and reference to
log-probabilities and KL, a loss of them, and the gradients of states and head; float32, every cell in a
process of its own. "extra MiB" is the peak above the start less the two gradients, which are results;
"plain" is the same with log_softmax and softmax of whole logits, where these stay below half a GiB.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial

import torch
from torch import Tensor

from benchmarks.step.measure import Run, Usage, Worker
from sparsepo_plugin.forward.head import open_head
from sparsepo_plugin.forward.statistics import HeadWeights, ReferenceRows, fused_statistics

HIDDEN, LARGEST_PLAIN = 64, 1 << 27
Statistics = tuple[Tensor, Tensor, Tensor]


def make(tokens: int, vocabulary: int, plain: bool) -> Run:
    """A run of one cell; it ignores the step it is given."""
    torch.manual_seed(0)
    states, other = (torch.randn(tokens, HIDDEN) for _ in range(2))
    heads = [torch.nn.Linear(HIDDEN, vocabulary, bias=False) for _ in range(2)]
    states.requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    compute = _plain if plain else _fused

    def run(_: object) -> float:
        states.grad = heads[0].weight.grad = None
        logps, reference_logps, kl = compute(states, heads[0], other, heads[1], targets)
        loss = (logps - reference_logps).mean() + kl.mean()
        loss.backward()
        return loss.item()

    return run


def _fused(
    states: Tensor, head: torch.nn.Linear, other: Tensor, other_head: torch.nn.Linear, targets: Tensor
) -> Statistics:
    judged = ReferenceRows(other, partial(open_head, other_head))
    found = fused_statistics(states, HeadWeights(head.weight, None), targets, judged, with_kl=True)
    assert found.reference_logps is not None
    assert found.token_kl is not None
    return found.policy_logps, found.reference_logps, found.token_kl


def _plain(
    states: Tensor, head: torch.nn.Linear, other: Tensor, other_head: torch.nn.Linear, targets: Tensor
) -> Statistics:
    with torch.no_grad():
        judged = other_head(other)
    log_p, log_q = head(states).log_softmax(-1), judged.log_softmax(-1)
    kl = (judged.softmax(-1) * (log_q - log_p)).sum(-1)
    at = targets[:, None]
    return log_p.gather(-1, at).squeeze(-1), log_q.gather(-1, at).squeeze(-1), kl


def measure(tokens: int, vocabulary: int, plain: bool, threads: int) -> Usage:
    """Time of the second run, peak of the second run less the gradients."""
    worker = Worker(partial(make, tokens, vocabulary, plain), threads=threads, memory=True)
    first, second = worker.run([]), worker.run([])
    worker.close()
    if first.loss != second.loss:
        raise SystemExit(f"two runs on the same input differ: {first.loss} and {second.loss}")
    gradients = 4 * HIDDEN * (tokens + vocabulary) / 2**20
    return second._replace(peak=second.peak - gradients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[256, 512, 1024, 2048])
    parser.add_argument("--vocabulary", type=int, nargs="*", default=[32_000, 128_000, 152_000])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("| vocabulary | tokens | processor s | us per 1000 logits | extra MiB | plain, extra MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for vocabulary in arguments.vocabulary:
        for tokens in arguments.tokens:
            used = measure(tokens, vocabulary, False, arguments.threads)
            size, plain = tokens * vocabulary, "-"
            if size <= LARGEST_PLAIN:
                other = measure(tokens, vocabulary, True, arguments.threads)
                if abs(other.loss - used.loss) > 1e-4 * abs(used.loss):
                    raise SystemExit(f"fused and plain differ in their loss: {used.loss} and {other.loss}")
                plain = f"{other.peak:.0f}"
            cost = used.cpu / size * 1e9
            print(
                f"| {vocabulary} | {tokens} | {used.cpu:.2f} | {cost:.1f} | {used.peak:.0f} | {plain} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
