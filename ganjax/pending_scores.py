"""Scores that are computed while the training goes on."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

from ganjax import evaluation
from ganjax.judging import Judge
from ganjax.judging_text import TextJudge
from ganjax.types import TrainState


class Scores:
    """Scores on their way: samples are drawn at once, what the host computes is left to a thread.

    The device trains on meanwhile. No more than one score is computed at a time, and one waits.
    """

    def __init__(self, judge: Judge | TextJudge):
        self._judge = judge
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: collections.deque = collections.deque()

    def __enter__(self) -> "Scores":
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, step: int, state: TrainState) -> None:
        if len(self._pending) > 1:
            concurrent.futures.wait([self._pending[-2][1]])
        look = self._judge.look(state)
        held_out = self._judge.held_out(state)
        self._pending.append((step, self._pool.submit(self._judge.score, look), held_out))

    def ready(
        self, *, wait: bool
    ) -> Iterator[tuple[int, Callable[[], dict[str, evaluation.Figure]], dict[str, float]]]:
        """Yield step, what gives the figures, and means over held-out data, of what is computed.

        Or of all, where `wait`. The figures may raise what computing them raised.
        """
        while self._pending and (wait or self._pending[0][1].done()):
            step, score, held_out = self._pending.popleft()
            yield step, score.result, held_out
