"""What is in flight: a chunk between two rounds, what a round did, and how the store calls what it keeps of them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from models.block_mlp import BlockMLP
from models.level_fit import LevelFit, LevelReport
from models.precision import PackedRows
from models.training_copy import TrainingCopy


@dataclass(frozen=True)
class Wave:
    """What a round did, for logs and progress bars.

    `level_epochs` is how many of the level's epochs are behind, as a mean over its chunks.
    """

    level: int
    chunk: int
    chunks: int
    round: int
    epoch: int
    epochs: int
    level_epochs: int
    training: int
    loss: float
    psnr: float
    lr: float
    cells_per_s: float


@dataclass(frozen=True)
class Point:
    """Where a chunk stands between two rounds; replaced as a whole, so that an interrupt never sees half a round."""

    fit: LevelFit
    chunk: range
    epoch: int
    copy: TrainingCopy

    def state(self) -> dict[str, Any]:
        """The piece that it is kept as."""
        return {
            "target": self.fit.state(self.chunk),
            "index": self.copy.index,
            "rows": self.copy.blocks.rows,
            "moments": self.copy.blocks.moments,
            "zeroed": self.copy.blocks.zeroed,
        }


def piece_name(point: Point, epoch: int | str = "") -> str:
    """Of a chunk's piece at an epoch, or what all its pieces' names begin with."""
    return f"chunk_{point.fit.level}_{point.chunk.start}_{point.chunk.stop}_{epoch}"


def rows_name(fit: LevelFit, chunk: range) -> str:
    """Of the file that holds a finished chunk's rows."""
    return f"rows_{fit.level}_{chunk.start}_{chunk.stop}"


def first_row(name: str) -> int:
    """Of such a file: the position of its first row in the level."""
    return int(name.split("_")[2])


def level_state(networks: BlockMLP, report: LevelReport, files: list[str]) -> dict[str, Any]:
    """The piece of a finished level; rows that are not held are in `files`, in their order."""
    rows = {"files": files} if isinstance(networks.rows, PackedRows) else {"rows": networks.rows.detach()}
    return {
        "network": dataclasses.asdict(networks.network),
        "blocks": networks.blocks,
        "amplitude": networks.amplitude,
        "report": dataclasses.asdict(report),
        **rows,
    }
