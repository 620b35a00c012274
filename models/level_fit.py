"""One level in training: what is left to learn, which blocks are active, and their networks, round by round."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from datasets.residual import LevelTargets
from machine.ranks import Ranks
from metrics import psnr
from models.block_mlp import BlockMLP
from models.engine import Blocks
from models.engine.closed_form import solve_output
from models.inheritance import Inheritance
from models.network import COLOUR, Network
from models.precision import PackedRows, pack, rounded
from models.recipe import Recipe
from models.rounds import Rounds
from models.training_copy import TrainingCopy
from utils import UserError

# Where several processes share a level, a chunk gets this part of what is left for each of them, so that chunks grow
# ever shorter and all end at about the same time, though each has some in training (of a GPU GPU_CHUNKS) and the next
# at hand: a block is done after one round or needs all. None is shorter than a device takes to be busy for much longer
# than it is set to work.
LEFT = 1 / 4
LEAST = {"cpu": 32, "cuda": 1024}


@dataclass(frozen=True)
class LevelReport:
    """What became of a level: numbers of blocks, those below the threshold, and its mean square error in [0, 1]."""

    level: int
    all: int
    active: int
    converged: int
    mse: float

    @property
    def psnr(self) -> float:
        return psnr(self.mse)


def level_network(recipe: Recipe, n_in: int, channels: int, coarsest: bool) -> Network:
    """The networks of a level: of the signal at the coarsest level and in a Gaussian pyramid, else of a residual."""
    output = COLOUR if coarsest or not recipe.residual else recipe.output
    return Network(n_in, recipe.n_hidden, recipe.n_layers, channels, output, recipe.omega_0)


def cut(spans: list[range], most: int, ranks: int = 1, least: int = 1) -> list[range]:
    """Cut ranges of blocks into chunks, in order.

    Args:
        most: blocks of a chunk.
        ranks: processes that share them. For one, the chunks of a range are about equally long; for several they grow
            ever shorter, and there are at least as many, if there are blocks enough for chunks of two.
        least: blocks of a chunk for several processes, where they have as many each.
    """
    left = sum(map(len, spans))
    least = max(2, min(least, -(-left // ranks)))
    chunks = []
    for span in spans:
        while span:
            longest = most if ranks == 1 else min(most, max(least, int(left / ranks * LEFT)))
            length = -(-len(span) // -(-len(span) // longest))
            chunks.append(span[:length])
            span, left = span[length:], left - length
    return chunks


class LevelFit:
    """The target network of a level and the error of each of its blocks while chunks of it are trained.

    A chunk is a range of positions in the target.

    Args:
        targets: what is left to learn.
        inputs: [in, p], the encoded cells of a block.
        engine: what trains the blocks.
        ranks: the processes that share the level.
        inheritance: where networks begin with those of the coarser level.
        row_bytes: the most bytes of rows that are held; where there are more, only those of a chunk are, and who runs
            the level writes them to a file when the chunk is done (`finished_rows`, `finish`).
        rounds: the steps of all levels of a run.
    """

    def __init__(
        self,
        targets: LevelTargets,
        recipe: Recipe,
        inputs: Tensor,
        engine,
        ranks: Ranks | None = None,
        inheritance: Inheritance | None = None,
        row_bytes: int = 2**62,
        rounds: Rounds | None = None,
    ):
        self.targets, self.recipe, self.inputs, self.engine = targets, recipe, inputs, engine
        self.ranks, self.inheritance = ranks or Ranks(), inheritance
        self.grid, self.level = targets.grid, targets.level
        self.epochs = recipe.epochs[self.level]
        self.rounds = rounds or Rounds(self.grid, targets.source.device)
        self.energy, amplitude = targets.survey(self.ranks)
        if not recipe.use_amplitude:
            amplitude.fill_(1)
        share = recipe.coarse_share if self.level else 1.0
        active = (self.energy > recipe.loss_thr * share).nonzero()[:, 0]
        coarsest = self.level == self.grid.n_levels - 1
        self.network = level_network(recipe, len(inputs), targets.source.signal.channels, coarsest)
        size = self.network.row_size
        self.holds_rows = len(active) * size * 4 <= row_bytes
        rows = self.energy.new_zeros(len(active) if self.holds_rows else 0, size)
        self.target = BlockMLP(self.network, active, amplitude[active], rows, recipe.save_dtype)
        self._parts: dict[range, BlockMLP] = {}
        # Until it is trained a block is as wrong as its residual.
        self.errors = self.energy.clone()
        kind = self.grid.kind_of(torch.arange(len(self.energy), device=active.device), self.level)
        self._weights = self.grid.count_real(kind, self.level)
        self._before = self._mean(self.energy)
        self._real = self.rounds.real(self.level)

    def chunks(self, known: list[range] | None = None) -> list[range]:
        """The active blocks, cut for the processes there are: first what is `known` as it is, then what lies between.

        Args:
            known: what an earlier session has trained or begun; chunks that do not overlap.
        """
        known = sorted(known or [], key=lambda chunk: chunk.start)
        ends = [0, *(end for chunk in known for end in (chunk.start, chunk.stop)), len(self.target)]
        gaps = [range(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]
        least = LEAST[self.energy.device.type]
        return known + cut(gaps, self.recipe.b_chunks, self.ranks.count, least)

    @property
    def mse(self) -> float:
        """Mean square error of the level as far as this process knows it, over real cells and channels."""
        return self._mean(self.errors)

    @property
    def gain(self) -> float:
        """How much this process has lessened the mean square error of the level."""
        return self._before - self.mse

    def psnr(self, gain: float) -> float:
        """Of the level, given the gain of all processes."""
        return psnr(self._before - gain)

    def figures(self, mse: Tensor) -> tuple[float, float]:
        """The mean of some blocks' errors [n], and `gain`, for which the host waits once."""
        loss, error = torch.stack([mse.mean(), self._weighted(self.errors)]).tolist()
        return loss, self._before - error

    def _mean(self, errors: Tensor) -> float:
        return self._weighted(errors).item()

    def _weighted(self, errors: Tensor) -> Tensor:
        return (errors * self._weights).sum() / self._weights.sum()

    def start(self, chunk: range) -> TrainingCopy:
        """The networks that a chunk begins with: fresh ones, or heirs."""
        return self.fresh(torch.arange(len(chunk), device=self.energy.device), chunk)

    def fresh(self, index: Tensor, chunk: range | None = None) -> TrainingCopy:
        """The networks that the active blocks at `index` of a chunk, int64 [n] in rising order, begin with.

        Args:
            chunk: all active blocks if None.
        """
        recipe, blocks = self.recipe, self._part(chunk).blocks[index]
        rows = self.network.initial_rows(recipe.seed, self.level, blocks, recipe.a, recipe.output_start)
        if self.inheritance:
            rows = self.inheritance.rows(self.network, blocks, rows)
        copy = self.copy(index, rows, {}, chunk)
        if recipe.solve_start:
            copy.blocks.rows = solve_output(self.network, self.inputs, copy.blocks, self._real)
        return copy

    def copy(
        self,
        index: Tensor,
        rows: Tensor,
        moments: dict,
        chunk: range | None = None,
        zeroed: Tensor | None = None,
    ) -> TrainingCopy:
        """A training copy of the active blocks at `index` of a chunk, with what they have reached (models.engine)."""
        target = self._part(chunk)
        ids = target.blocks[index]
        kind = self.grid.kind_of(ids, self.level)
        blocks = Blocks(rows, self.targets.gather(ids), target.amplitude[index], kind, moments, zeroed)
        return TrainingCopy(blocks, index, target)

    def expect(self, chunk: range) -> None:
        """Begin to make what a chunk that is started next will be shown."""
        self.targets.expect(self.target.blocks[chunk.start : chunk.stop])

    def train(self, copy: TrainingCopy, window: range) -> tuple[TrainingCopy, Tensor]:
        """Train a copy for a round of epochs: the copy after it, and the error of each of its blocks [n].

        The error is that of the rows as the file will hold them; training goes on from the rows as they are.
        """
        round_ = self.rounds.take(self.recipe, self.level, window)
        blocks = self.engine.train(self.network, self.inputs, copy.blocks, round_)
        mse = self._measured(blocks)
        self.rounds.make_next(self.recipe, self.level, window)
        return copy.trained(blocks), mse

    def solve(self, copy: TrainingCopy) -> tuple[TrainingCopy, Tensor]:
        """A copy whose output layers are solved for instead of trained, and the error of each of its blocks, as of
        `train`: for blocks that there is no time to train."""
        rows = solve_output(self.network, self.inputs, copy.blocks, self._real)
        blocks = replace(copy.blocks, rows=rows)
        return copy.trained(blocks), self._measured(blocks)

    def _measured(self, blocks: Blocks) -> Tensor:
        kept = replace(blocks, rows=rounded(self.network, self.recipe.save_dtype, blocks.rows))
        return self.engine.errors(self.network, self.inputs, kept, self._real)

    def sync(self, copy: TrainingCopy, mse: Tensor, prune: bool = True) -> TrainingCopy:
        """Write a copy and its blocks' errors into the level; the copy that goes on, where `prune` is true without the
        blocks that are good enough, or with their gradients set to zero.
        """
        copy.sync()
        self.errors[copy.target.blocks[copy.index]] = mse
        if not prune:
            return copy
        done = mse < self.recipe.prune_thr
        return copy.zeroed(done) if self.recipe.zero_grad else copy.pruned(done)

    def state(self, chunk: range) -> dict[str, Tensor]:
        """What is known of a chunk's blocks, to be given back to `restore`."""
        part = self._part(chunk)
        return {"blocks": part.blocks.clone(), "rows": part.rows.detach().clone(), "errors": self.errors[part.blocks]}

    def restore(self, chunk: range, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave; without rows if they are in a file.

        Raises:
            UserError: the chunk has other blocks here.
        """
        blocks = self.target.blocks[chunk.start : chunk.stop]
        if not torch.equal(blocks, state["blocks"]):
            # With the coarser levels rounded otherwise a block near the threshold is active here and was not there.
            raise UserError(
                "--resume: other blocks need a network than where the run began, as another kind of machine rounds "
                "otherwise: go on there, or start over without --resume"
            )
        self.errors[blocks] = state["errors"]
        if "rows" in state:
            self._part(chunk).rows[:] = state["rows"]

    def exchange(self, trained: list[tuple[int, range]]) -> None:
        """Give all processes what each has trained: the owners of chunks, the same list in every process."""
        errors = self.errors[self.target.blocks]
        tensors = (self.target.rows, errors) if self.holds_rows else (errors,)
        self.ranks.exchange([(owner, values[c.start : c.stop]) for owner, c in trained for values in tensors])
        self.errors[self.target.blocks] = errors

    def finished_rows(self, chunk: range) -> list[Tensor]:
        """The rows of a chunk that the finished level keeps, as the tables of a file."""
        part = self._part(chunk)
        rows = part.rows[self._better(part.blocks)]
        return list(pack(self.network, self.recipe.save_dtype, rows).values())

    def end(self, chunk: range) -> None:
        """Let go of what only a chunk in training needs."""
        self._parts.pop(chunk, None)

    def finish(self, rows: PackedRows | None = None) -> tuple[BlockMLP, LevelReport]:
        """The finished level. A network that is worse than none, as where a run was stopped early, is left out.

        Args:
            rows: where those of all chunks are if they are not held.
        """
        self.targets.forget()
        n, target = len(self.energy), self.target
        errors = self.errors[target.blocks]
        keep = self._better(target.blocks).nonzero()[:, 0]
        self.errors = torch.fmin(self.errors, self.energy)
        converged = int((errors[keep] < self.recipe.loss_thr).sum())
        if len(keep) < len(target) or not self.holds_rows:
            rows = target.rows[keep].detach() if self.holds_rows else rows
            target = BlockMLP(self.network, target.blocks[keep], target.amplitude[keep], rows, target.dtype)
        return target, LevelReport(self.level, n, len(keep), converged, self.mse)

    def _better(self, blocks: Tensor) -> Tensor:
        """Whether the networks of blocks, by number, are better than none, bool like it."""
        return self.errors[blocks] < self.energy[blocks]

    def _part(self, chunk: range | None) -> BlockMLP:
        """The target network of a chunk: a view of the level's, or all there is of it where the rows are not held."""
        if chunk is None:
            return self.target
        if chunk not in self._parts:
            here, whole = slice(chunk.start, chunk.stop), self.target
            rows = whole.rows[here] if self.holds_rows else whole.rows.new_zeros(len(chunk), self.network.row_size)
            self._parts[chunk] = BlockMLP(self.network, whole.blocks[here], whole.amplitude[here], rows, whole.dtype)
        return self._parts[chunk]
