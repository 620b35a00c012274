"""Give a fitted signal back from its model: a picture, a surface or an array, whole or a region, at any level."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datasets.big_image import ENDINGS, write_strips
from datasets.grid import Box
from datasets.image_format import FORMATS
from datasets.image_writer import write_image
from datasets.npy import write_npy
from datasets.source import Signal
from models import model_file
from models.frame import Frame
from models.pyramid import Pyramid
from opt import Parser
from pictures.levels import scales_picture
from utils import UserError, atomic_write, run_command

# Cells along an axis of what is written: more than any format takes.
MOST_CELLS = 2**24


def reconstruct(
    model: str | Path,
    out: str | Path,
    region: tuple[int, ...] | None = None,
    level: int = 0,
    threshold: float = 0.5,
    size: tuple[int, ...] | None = None,
) -> list[str]:
    """Decode a model into a file of the kind that `out` ends in.

    Args:
        model: a file that train.py wrote.
        out: .png, .jpg, .tif, .webp, .bmp, .dzi or .npy for an image; .ply, .obj, .stl, .glb or .npy for a shape;
            .npy for a volume.
        region: X Y [Z] of the first cell and the sizes W H [D], in cells of the level; everything if None.
        level: 0 is the finest.
        threshold: occupancy at the surface of a shape, in (0, 1).
        size: W H [D], as so many cells; as the level has them if None.

    Returns:
        notes, one line each: how much of the model was read for a region, what was interpolated, and what the format
        could not hold.

    Raises:
        UserError: the model, the region, the size or the ending cannot be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pyramid, about = model_file.load(model, device, lazy=True)
    signal = Signal(**about["signal"])
    out = Path(out)
    _check_ending(out, signal)
    if signal.mode != "occupancy" and threshold != 0.5:
        raise UserError(f"--threshold {threshold}: only shapes have a surface: leave it out")
    if not 0 <= level < pyramid.grid.n_levels:
        raise UserError(f"--level {level}: the model has levels 0 (the finest) to {pyramid.grid.n_levels - 1}")
    box = _box(pyramid, region, level)
    cells = _cells(pyramid, size) or box.shape
    notes = []
    if Frame(pyramid.grid, box, level, cells).interpolated:
        notes.append(f"--size {_words(cells)} is more than the finest level has there: it is interpolated by a cubic")
    if signal.mode == "occupancy" and out.suffix.lower() != ".npy":
        _write_surface(out, pyramid, about, level, box, threshold, cells)
    else:
        shape, strips = (*cells, signal.channels), decode_strips(pyramid, signal, box, level, threshold, cells)
        if signal.mode in ("occupancy", "volume"):
            write_npy(out, strips, cells if signal.channels == 1 else shape, signal.dtype)
        else:
            notes += write_strips(out, strips, shape, signal.dtype, signal.mode, (signal.low, signal.high))
    if region:
        share = pyramid.bytes_read / 1e6, Path(model).stat().st_size / 1e6
        notes.append("read {:.3g} MB of rows from a file of {:.3g} MB".format(*share))
    return notes


def decode_strips(
    pyramid: Pyramid,
    signal: Signal,
    region: Box,
    level: int = 0,
    threshold: float = 0.5,
    size: tuple[int, ...] | None = None,
) -> Iterator[np.ndarray]:
    """A region of a level as the source has it, in arrays [rows, ..., c] of the source's dtype, from the top down.

    Together they have the shape of the region, or `size`.
    """
    size = size or region.shape
    with tqdm(total=size[0], unit="row", delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for part in pyramid.strips(level, region, size=size):
            values = pyramid.decode(region, level, size, part)
            yield values.cpu().numpy() > threshold if signal.dtype == "bool" else signal.restore(values)
            bar.update(part.shape[0])


def show_blocks(model: str | Path, out: str | Path) -> list[str]:
    """Write the block decomposition of a model: an image with its blocks, or a shape with those of each scale.

    Args:
        out: .png, .jpg, .tif, .webp or .bmp; of a shape also .html, a page on which it can be turned. Of a volume it is
            the middle slice.

    Returns:
        notes, one line each, on what the format could not hold.

    Raises:
        UserError: the model or the ending cannot be used.
    """
    out = Path(out)
    pyramid, about = model_file.load(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"), lazy=True)
    mode = about["signal"]["mode"]
    endings = [ending for ending in FORMATS if ending != ".npy"] + ([".html"] if mode == "occupancy" else [])
    if out.suffix.lower() not in endings:
        raise UserError(f"--blocks {out}: the blocks of this model are written as one of {', '.join(endings)}")
    if out.suffix.lower() == ".html":
        from pictures.figures import blocks_figure

        page = blocks_figure(pyramid, about["bounds"]).to_html()
        with atomic_write(out) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return []
    if mode == "occupancy":
        from pictures.blocks import shape_picture

        return write_image(out, shape_picture(pyramid, about["bounds"]), "RGB")
    return write_image(out, scales_picture(pyramid, mode), "RGB")


def _write_surface(
    out: Path,
    pyramid: Pyramid,
    about: dict[str, Any],
    level: int,
    box: Box,
    threshold: float,
    size: tuple[int, ...],
) -> None:
    from datasets.surface import write_mesh
    from pictures.surfaces import level_surface

    with tqdm(total=size[0], unit="layer", desc=out.name, disable=not sys.stderr.isatty()) as bar:
        vertices, faces = level_surface(
            pyramid, about["bounds"], level, box, threshold, lambda done: bar.update(done - bar.n), size
        )
    if not len(faces):
        raise UserError(f"--threshold {threshold}: no surface there: the shape is empty in this region")
    write_mesh(out, vertices, faces)


def _check_ending(out: Path, signal: Signal) -> None:
    endings = ENDINGS
    if signal.mode == "volume":
        endings = (".npy",)
    elif signal.mode == "occupancy":
        from datasets import surface

        endings = (*surface.ENDINGS, ".npy")
    if out.suffix.lower() not in endings:
        raise UserError(f"--out {out}: this model is written as one of {', '.join(endings)}")


def _box(pyramid: Pyramid, region: tuple[int, ...] | None, level: int) -> Box:
    """The box of cells, slow to fast, of a region X Y [Z] W H [D]."""
    whole, axes = pyramid.grid.level_box(level), pyramid.grid.ndim
    if region is None:
        return whole
    if len(region) != 2 * axes:
        raise UserError(f"--region has {len(region)} numbers: give {'X Y W H' if axes == 2 else 'X Y Z W H D'}")
    start = region[:axes][::-1]
    box = Box(start, tuple(a + n for a, n in zip(start, region[axes:][::-1], strict=True)))
    if min(box.shape) < 1 or pyramid.grid.clip(box, level) != box:
        raise UserError(
            f"--region {' '.join(map(str, region))} is not inside level {level}, which has size {_words(whole.stop)}"
        )
    return box


def _cells(pyramid: Pyramid, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The cells, slow to fast, of a size W H [D]."""
    axes = pyramid.grid.ndim
    if size is None:
        return None
    if len(size) != axes:
        raise UserError(f"--size has {len(size)} numbers: give {'W H' if axes == 2 else 'W H D'}")
    if min(size) < 1 or max(size) > MOST_CELLS:
        raise UserError(f"--size {_words(size[::-1])}: every number must be between 1 and {MOST_CELLS}")
    return size[::-1]


def _words(cells: tuple[int, ...]) -> str:
    """A size as the command line has it."""
    return " ".join(map(str, cells[::-1]))


def main(argv: list[str] | None = None) -> None:
    parser = Parser("reconstruct.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="ckpts/<exp_name>/model.safetensors")
    parser.add_argument("--out", metavar="FILE", help="what to write, by its ending")
    parser.add_argument("--blocks", metavar="FILE", help="a picture of the blocks of each scale; of a shape also .html")
    parser.add_argument(
        "--region", type=int, nargs="+", metavar="N", help="X Y W H, or X Y Z W H D, in cells of the level"
    )
    parser.add_argument("--level", type=int, default=0, metavar="J", help="0 is the finest (default)")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="W H, or W H D: decode it as so many cells, averaged down, or interpolated above the finest level",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, metavar="T", help="occupancy at a surface (default 0.5)"
    )
    arguments = parser.parse_args(argv)
    if not 0 < arguments.threshold < 1:
        raise UserError(f"--threshold must be between 0 and 1, not {arguments.threshold}")
    if not arguments.out and not arguments.blocks:
        raise UserError("--out is missing: give a file to write, or --blocks for a picture of the blocks")
    for name in ("region", "level", "size", "threshold"):
        if not arguments.out and getattr(arguments, name) != parser.get_default(name):
            raise UserError(f"--{name} has no meaning without --out: leave it out")
    if arguments.out and arguments.blocks and Path(arguments.out).resolve() == Path(arguments.blocks).resolve():
        raise UserError(f"--blocks {arguments.blocks}: is also --out: give two files")
    notes = []
    if arguments.blocks:
        notes += show_blocks(arguments.model, arguments.blocks)
    if arguments.out:
        region = tuple(arguments.region) if arguments.region else None
        size = tuple(arguments.size) if arguments.size else None
        notes += reconstruct(arguments.model, arguments.out, region, arguments.level, arguments.threshold, size)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(*filter(None, (arguments.out, arguments.blocks)), sep="\n")


if __name__ == "__main__":
    run_command(main)
