"""The chunks of a level in training: each through all its rounds, one on a CPU and two, in turns, on a GPU.

So weights and moments exist for the chunks in flight only. Where several processes share a level, each takes the next
chunk that nobody has taken.
"""

from collections import deque
from collections.abc import Iterator, Mapping

import torch

from machine.ranks import Ranks
from models.checkpoints import Checkpoints
from models.clock import Clock
from models.engine.contract import cosine_lr
from models.flight import Point, Wave
from models.lanes import join, lanes
from models.level_fit import LevelFit

# What a lane says when it has trained all its chunks.
DONE = object()


class Chunks:
    """The chunks of a level, of which this process trains those that it takes.

    Args:
        begun: those that an earlier session has begun, the epoch each has reached, and the piece that has it.
    """

    def __init__(
        self,
        fit: LevelFit,
        begun: Mapping[range, tuple[int, str]],
        checkpoints: Checkpoints,
        clock: Clock,
        ranks: Ranks,
    ):
        self.fit, self.recipe = fit, fit.recipe
        self._begun, self._checkpoints, self._clock, self._ranks = begun, checkpoints, clock, ranks
        self._coarsest = fit.targets.prediction is None
        self.all = fit.chunks(list(begun))
        # The numbers of those that this process has taken.
        self.taken: list[int] = []

    def train(self) -> Iterator[Wave]:
        """Train until none is left; a wave after each round."""
        device, numbers = self.fit.energy.device, self._take()
        busy = deque((lane, self._lane(numbers)) for lane in lanes(device))
        while busy:
            lane, waves = busy[0]
            with torch.cuda.stream(lane):
                wave = next(waves, DONE)
            if wave is DONE:
                busy.popleft()
            elif wave is None:
                # A round has begun; while it goes on, the next lane ends its own.
                busy.rotate(-1)
            else:
                yield wave
        join(device)

    @property
    def later(self) -> int:
        """Blocks of chunks that are not begun."""
        return sum(map(len, self.all[max(self._checkpoints.points) + 1 :]))

    @property
    def _epoch(self) -> int:
        """Epochs of the level that are behind, as a mean over its chunks; those before the ones in flight are done."""
        points = self._checkpoints.points
        done = max(points) + 1 - len(points)
        return (done * self.fit.epochs + sum(point.epoch for point in points.values())) // len(self.all)

    def _take(self) -> Iterator[tuple[int, int | None]]:
        """The numbers of the chunks that this process trains, each with the one after it or None.

        That is taken at the same time, so that what it needs can be made while this one trains; not so near the end
        that another process would have none, nor on a CPU, where several make nothing ahead.
        """
        name, n, count, following = f"chunks_{self.fit.level}", len(self.all), self._ranks.count, None
        while True:
            number = self._ranks.take(name) if following is None else following
            if number >= n:
                return
            # Each of several may hold two.
            ahead = count == 1 or (self.fit.energy.is_cuda and number + 3 * count <= n + 1)
            following = self._ranks.take(name) if ahead else None
            self.taken.append(number)
            yield number, following if following is not None and following < n else None

    def _lane(self, numbers: Iterator[tuple[int, int | None]]) -> Iterator[Wave | None]:
        """Train chunks that are taken, one after another: None when a round has begun, and its wave when it is done."""
        for number, following in numbers:
            chunk = self.all[number]
            epoch, piece = self._begun.get(chunk, (0, None))
            if epoch == self.fit.epochs or (epoch and self._checkpoints.out_of_time()):
                # As far as an earlier session has brought it.
                self._checkpoints.restore(self.fit, chunk, piece)
            elif not self._checkpoints.out_of_time() or self._coarsest:
                self._start(number, epoch, piece)
                if following is not None and self.all[following] not in self._begun:
                    self.fit.expect(self.all[following])
                yield from self._rounds(number)
                self._checkpoints.chunk_done(number)
            self.fit.end(chunk)

    def _start(self, number: int, epoch: int, piece: str | None) -> None:
        """Begin a chunk with fresh networks, or where an earlier session left it."""
        chunk = self.all[number]
        copy = self._checkpoints.copy(self.fit, chunk, piece) if piece else self.fit.start(chunk)
        if len(chunk) == len(self.fit.target):
            self.fit.targets.forget()
        self._checkpoints.put(number, Point(self.fit, chunk, epoch, copy))

    def _rounds(self, number: int) -> Iterator[Wave | None]:
        """Train a chunk in flight through all its rounds; each is told of while the next goes on."""
        fit, chunk, wave = self.fit, self.all[number], None
        while True:
            point = self._checkpoints.points[number]
            if point.epoch == fit.epochs or not len(point.copy) or self._checkpoints.out_of_time():
                break
            started, round_ = self._clock.now, self.recipe.round(fit.level, point.epoch)
            window = self._affordable(round_)
            copy, mse = fit.train(point.copy, window)
            if wave:
                yield from self._clock.told(wave)
            yield None
            after = fit.sync(copy, mse, prune=window == round_)
            self._checkpoints.put(number, Point(fit, chunk, window.stop, after))
            loss, gain = fit.figures(mse)
            seconds = self._clock.trained(fit.level, window, len(copy), len(after), started)
            rate = len(copy) * len(window) * fit.grid.block_cells / seconds
            gain, rate = self._ranks.pool(f"level_{fit.level}", [gain, rate])
            lr = cosine_lr(self.recipe.start_lr(fit.level), window[-1], fit.epochs)
            where = fit.level, number, len(self.all), -(-window.stop // self.recipe.val_freq), window.stop, fit.epochs
            wave = Wave(*where, self._epoch, len(copy), loss, fit.psnr(gain), lr, rate)
            self._checkpoints.commit_if_due()
        if wave:
            yield from self._clock.told(wave)
        elif self._coarsest and not point.epoch:
            # There was no time for any round, and nothing coarser stands for these blocks.
            fit.sync(*fit.solve(point.copy), prune=False)

    def _affordable(self, round_: range) -> range:
        """The epochs of a round that the time which is left is enough for, at least one."""
        blocks = sum(len(point.copy) for point in self._checkpoints.points.values())
        return round_[: max(1, int(min(self._clock.affordable(blocks), len(round_))))]
