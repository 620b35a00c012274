"""Turn a mesh into an occupancy grid: `python preprocess_mesh.py --N 512 --M 1 --T 1 --path meshes/bunny.obj`.

Writes `occupancy/<name of the mesh>_<N>.npy` under the current directory, one bit per cell; `datasets/occupancy.py`
describes the file, `datasets/mesh.py` how inside is decided.
"""

import argparse
import os
import sys
from pathlib import Path

import trimesh
from tqdm import tqdm

from datasets.knot import knot
from datasets.mesh import LARGEST_N, LARGEST_T, Voxeliser, read_mesh
from datasets.occupancy import write_occupancy
from opt import Parser
from utils import UserError, run_command

LARGEST_M = 9**3


def preprocess_mesh(path: str | os.PathLike | None, n: int, samples: int = 1, votes: int = 1) -> Path:
    """Voxelise the mesh at `path` into an n^3 grid and return the path of the file written.

    Without a path it is the built-in knot. `samples` points in each cell, the cube of an odd number; an odd number of
    `votes`, each a direction of lines. Raises UserError for a mesh that cannot be used or that encloses no cell.
    """
    mesh, name = (trimesh.Trimesh(*knot()), "the knot") if path is None else (read_mesh(path), path)
    voxeliser = Voxeliser(mesh, n, samples, votes)
    target = Path("occupancy") / f"{'knot' if path is None else Path(path).stem}_{n}.npy"
    source = None if path is None else os.fspath(path)
    occupied = 0
    bar = tqdm(total=n, unit="layer", desc=target.name, disable=not sys.stderr.isatty())
    with bar, write_occupancy(target, voxeliser.shape, voxeliser.bounds, source) as write:
        for slab in voxeliser.slabs():
            write(slab)
            occupied += int(slab.sum())
            bar.update(len(slab))
        if occupied == 0:
            raise UserError(f"{name}: encloses no cell at --N {n}: use a larger --N, or a mesh that is closed")
    print(f"{target}: {n}^3 cells, {occupied / n**3:.2%} occupied")
    if voxeliser.open_lines:
        share = voxeliser.open_lines / voxeliser.lines
        advice = ": use --T 3 or more" if votes == 1 else f", the votes of --T {votes} decide there"
        print(f"note: {share:.2%} of the lines met a hole or a flipped face{advice}", file=sys.stderr)
    return target


def _cell_count(text: str) -> int:
    n = _whole(text)
    if not 1 <= n <= LARGEST_N:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {LARGEST_N}: give the cells along an axis")
    return n


def _sample_count(text: str) -> int:
    samples = _whole(text)
    if samples not in {m**3 for m in range(1, 10, 2)}:
        raise argparse.ArgumentTypeError(f"{text} is not the cube of an odd number: use 1, 27, 125, 343 or {LARGEST_M}")
    return samples


def _vote_count(text: str) -> int:
    votes = _whole(text)
    if votes % 2 == 0 or not 1 <= votes <= LARGEST_T:
        raise argparse.ArgumentTypeError(f"{text} is not an odd number from 1 to {LARGEST_T}")
    return votes


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def main(argv: list[str] | None = None) -> None:
    parser = Parser("preprocess_mesh.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--N", type=_cell_count, required=True, help="cells along each axis of the grid")
    parser.add_argument("--M", type=_sample_count, default=1, help="samples in a cell, an odd cube (default 1)")
    parser.add_argument("--T", type=_vote_count, default=1, help="odd number of votes; 3 or 5 for holes (default 1)")
    parser.add_argument("--path", help="mesh: OBJ, PLY, STL, OFF, GLB (default: a built-in knot)")
    arguments = parser.parse_args(argv)
    preprocess_mesh(arguments.path, arguments.N, arguments.M, arguments.T)


if __name__ == "__main__":
    run_command(main)
