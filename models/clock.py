"""The time of a fit: how long it has gone on, what its rounds took, and how long the rest may take and will."""

import math
import time
from collections.abc import Iterator, Mapping

from models.flight import Point, Wave
from models.forecast import Forecast


class Clock:
    """The time of a fit, which begins now.

    Args:
        forecast: hears of every round.
        max_time: seconds after which no further round begins, or None.
    """

    def __init__(self, forecast: Forecast, max_time: float | None = None):
        self._forecast, self._max_time = forecast, max_time
        # Seconds that earlier sessions of the fit took.
        self.earlier = 0.0
        self._started = self._ended = time.perf_counter()
        # Epochs of blocks trained so far, and the seconds they took; and those in which rounds were told of.
        self._work, self._work_seconds, self._telling = 0, 1e-9, 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this fit, with what earlier sessions of it took."""
        return self.earlier + self._session

    @property
    def over(self) -> bool:
        """Whether no further round may begin."""
        return self._max_time is not None and self._session >= self._max_time

    @property
    def now(self) -> float:
        """Seconds that stand still while others hear of a round."""
        return time.perf_counter() - self._telling

    @property
    def _session(self) -> float:
        return time.perf_counter() - self._started

    def told(self, wave: Wave) -> Iterator[Wave]:
        """Let others hear of a round."""
        started = time.perf_counter()
        yield wave
        self._telling += time.perf_counter() - started

    def trained(self, level: int, window: range, before: int, after: int, started: float) -> float:
        """Take in a round that ends now: its epochs, the blocks before and after it, when it began. Its seconds."""
        ended = self.now
        # Of the time that two rounds share the first has what came before its end.
        seconds, self._ended = ended - max(started, self._ended), ended
        self._work += before * len(window)
        self._work_seconds += seconds
        self._forecast.trained(level, window.stop, len(window), before, after, seconds)
        return seconds

    def affordable(self, blocks: int) -> float:
        """Epochs of so many blocks that the time which is left is enough for."""
        if self._max_time is None or not self._work:
            return math.inf
        return (self._max_time - self._session) * self._work / self._work_seconds / blocks

    def left(self, points: Mapping[int, Point], later: int) -> float:
        """Seconds that the rest takes.

        Args:
            points: the chunks in flight, of which there are some.
            later: active blocks of their level whose chunks are not begun.
        """
        fit = next(iter(points.values())).fit
        training = [(point.epoch, len(point.copy)) for point in points.values()]
        other = self._session - self._work_seconds
        left = self._forecast.left(fit.level, training, later, len(fit.target), other)
        return left if self._max_time is None else min(left, max(0.0, self._max_time - self._session))
