"""An lm-eval model that asks only for what the store does not hold, and stores each batch as it is finished.

Why numbers survive a kill unchanged: the hf backend sorts requests by length and answers them in fixed-size
batches; batches are stored whole, so what is left after a kill is a suffix of that order and falls into the
same batches with the same padding.
"""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from eval_harness.models.answer_store import AnswerStore, entry_key
from eval_harness.models.finite import check_finite, finite
from eval_harness.types import NO_ANSWER

# An empty text that an endpoint really gave. A bare "" was once stored for null, and is asked for again.
_EMPTY = {"text": ""}


class AnswerCache:
    """Receives answers from lm-eval's cache hook and writes them to the store batch by batch."""

    def __init__(
        self, store: AnswerStore, namespace: str, versions: dict[str, str], *, each: bool = False
    ) -> None:
        """Bind a store.

        Args:
          store: where answers go.
          namespace: key of model and settings.
          versions: task name -> version of its definition.
          each: commit every answer at once (endpoints) instead of every batch.
        """
        self.store, self.namespace, self.versions, self.each = store, namespace, versions, each
        self.counts: Counter[str] = Counter()
        self.done: dict[str, Any] = {}
        self._batch: dict[str, Any] = {}
        self._waiting: dict[str, deque[str]] = {}

    def keys(self, kind: str, requests: list[Any]) -> list[str]:
        """Store keys of requests, distinct even for identical ones."""
        seen: Counter[str] = Counter()
        keys = []
        for request in requests:
            version = self.versions.get(request.task_name or "", "")
            first = entry_key(self.namespace, request.task_name or "", version, kind, request.args)
            keys.append(f"{first}-{seen[first]}")
            seen[first] += 1
        return keys

    def expect(self, kind: str, keys: list[str], requests: list[Any]) -> None:
        """Note which keys the coming answers belong to."""
        waiting: dict[str, deque[str]] = defaultdict(deque)
        variants: dict[str, set[str]] = defaultdict(set)
        for key, request in zip(keys, requests, strict=True):
            signature = _signature(kind, request.args)
            waiting[signature].append(key)
            variants[signature].add(json.dumps(request.args, default=str, sort_keys=True))
        # One prompt under two generation settings cannot be told apart in the hook (vllm reports changed
        # settings); such answers wait for the end of the call.
        self._waiting = {s: k for s, k in waiting.items() if len(variants[s]) == 1}
        self.done, self._batch = {}, {}

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """lm-eval's CacheHook interface: called once per answer after each batch."""
        queue = self._waiting.get(_signature(attr, req))
        if not queue or res == NO_ANSWER:  # never stored, so that a second run asks again
            return
        check_answer(attr, res)
        self._batch[queue.popleft()] = res
        if self.each:
            self.commit()

    def commit(self) -> None:
        """Write the finished batch."""
        self._write(self._batch)
        self.done.update(self._batch)
        self._batch = {}

    def _write(self, answers: dict[str, Any]) -> None:
        # A local model's empty text is stored as it is: nothing there ever stood for null.
        empty = _EMPTY if self.each else ""
        self.store.write({key: empty if value == "" else value for key, value in answers.items()})

    def _held(self, kind: str, keys: list[str]) -> dict[str, Any]:
        """Stored answers, without those that an earlier version should not have stored."""
        held = self.store.read(keys)
        hollow = [key for key, value in held.items() if not finite(value) or (self.each and value == "")]
        self.store.forget(hollow)
        return {key: _decode(kind, value) for key, value in held.items() if key not in set(hollow)}

    def answer(
        self, kind: str, requests: list[Any], ask: Callable[[list[Any]], list[Any]], piece: int
    ) -> list[Any]:
        """Answers in order: from the store, else from the model, `piece` requests at once (0: all)."""
        keys = self.keys(kind, requests)
        answers = self._held(kind, keys)
        todo = [(k, r) for k, r in zip(keys, requests, strict=True) if k not in answers]
        self.counts["reused"] += len(answers)
        self.counts["computed"] += len(todo)
        for start in range(0, len(todo), piece or len(todo) or 1):
            part = todo[start : start + (piece or len(todo))]
            self.expect(kind, [k for k, _ in part], [r for _, r in part])
            got = ask([r for _, r in part])
            self.commit()
            for value in got:
                check_answer(kind, value)
            late = {
                k: a for (k, _), a in zip(part, got, strict=True) if k not in self.done and a != NO_ANSWER
            }
            self._write(late)
            for (key, _), value in zip(part, got, strict=True):
                answers[key] = self.done.get(key, value)
                self.counts["failed"] += value == NO_ANSWER
        return [answers[key] for key in keys]


def _signature(kind: str, args: Any) -> str:
    parts = list(args)[:1] if kind == "generate_until" else list(args)
    return json.dumps([kind, *parts], default=str)


def check_answer(kind: str, value: Any) -> None:
    """Raise UserError for a log-probability that is not finite."""
    if kind != "generate_until":
        check_finite(value, f"a log-probability ({kind})")


def _decode(kind: str, value: Any) -> Any:
    if value == _EMPTY:
        return ""
    # JSON has no tuples; lm-eval unpacks (log-probability, is greedy).
    return tuple(value) if kind == "loglikelihood" else value
