"""What the tables are measured on: the originals where they are, else stand-ins of the same size, and it is said."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import MESHES
from datasets.image import read_image
from datasets.image_writer import lenient
from datasets.knot import knot
from datasets.occupancy import write_occupancy
from datasets.samples import noise
from utils import UserError

# Where the originals of the seeds' table are looked for, and what stands in for them: a picture by the start of its
# file's name, resized, or the built-in sample, made at that size.
ORIGINALS = {"pluto": "images/pluto", "tokyo": "images/tokyo-station", "shibuya": "images/shibuya"}
STAND_INS = {"pluto": "moon", "tokyo": "relief8k", "shibuya": "relief8k", "shibuya large": None}
# Cells of the bunny along an axis.
N = 512


class Made(str):
    """The path of a file that is made once it is known that a row is to be measured on it."""

    def __new__(cls, path: str | Path, write: Callable[[], None] | None = None):
        made = super().__new__(cls, Path(path).resolve())
        made.write = write
        return made

    def make(self) -> None:
        """Write the file.

        Raises:
            UserError: what it is made of cannot be read, or is too small.
        """
        Path(self).parent.mkdir(parents=True, exist_ok=True)
        self.write()


def picture(name: str, size: tuple[int, int], stand_ins: Path | None) -> tuple[list[str], str]:
    """Options of train.py for a picture of the table at a size X Y, and what it is."""
    dimensions, at = ["--input_size", *map(str, size)], f"{size[0]}x{size[1]}"
    if original := _find(ORIGINALS[name.split()[0]]):
        return ["--path", str(original), *dimensions], f"{original.name} at {at}"
    return stand_in(STAND_INS[name], size, stand_ins)


def stand_in(stem: str | None, size: tuple[int, int], folder: Path | None) -> tuple[list[str], str]:
    """Options of train.py for a picture of a folder at a size X Y, or for the built-in sample, and what it is."""
    dimensions, at = ["--input_size", *map(str, size)], f"{size[0]}x{size[1]}"
    found = _find(folder / stem) if folder and stem else None
    if found:
        how = "at its" if own_size(found) == size else "resized to"
        return ["--path", str(found), *dimensions], f"stand-in: {found.name} {how} {at}"
    return dimensions, f"stand-in: the built-in sample at {at}"


def photograph(stem: str, size: tuple[int, int], folder: Path | None) -> tuple[list[str], str] | None:
    """As `stand_in`, for rows that bear the picture's name: none, with a word on what to do, where it is not there."""
    options, what = stand_in(stem, size, folder)
    if "--path" in options:
        return options, what
    print(
        f"no rows of {stem}: give --stand_ins a folder with {stem}.jpg or another file that begins so", file=sys.stderr
    )
    return None


def whole(stem: str, size: tuple[int, int], folder: Path | None) -> tuple[list[str], str] | None:
    """As `photograph`, of that very name and at its own size: what others have been measured on."""
    if not (found := photograph(stem, size, folder)):
        return None
    path = Path(found[0][1])
    if (own := own_size(path)) == size and path.stem == stem:
        return found
    there = f"{path.name}{f', {own[0]}x{own[1]}' if own else ''}"
    print(f"no rows of {stem}: {there} is not the {stem} of {size[0]}x{size[1]} pixels", file=sys.stderr)
    return None


def own_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture by its header; None where Pillow cannot read it."""
    try:
        with lenient(), Image.open(path) as image:
            return image.size
    except OSError:
        return None


def shapes(folder: Path, stand_ins: Path | None) -> Iterator[tuple[list[str], str]]:
    """Options of train.py for the shapes of the tables, and what they are."""
    yield gyroid(folder, 128)[0], "gyroid at 128^3"
    if found := bunny(folder, stand_ins):
        yield found[0], f"{found[1]} at {N}^3"


def bunny(folder: Path, stand_ins: Path | None) -> tuple[list[str], str, str] | None:
    """Options of train.py for the bunny at N^3 or its stand-in, its name, and what it is.

    A grid is taken as it is, a mesh is voxelised into the folder. None, with a word on what to do, where it cannot be.
    """
    for place in (Path("occupancy"), stand_ins):
        if place and (path := place / f"bunny_{N}.npy").is_file():
            return _grid(str(path.resolve())), "bunny", path.name
    try:
        import datasets.mesh  # noqa: F401
    except ImportError as error:
        print(f"no rows of the bunny: {error}: pip install trimesh, or bring occupancy/bunny_{N}.npy", file=sys.stderr)
        return None
    source, what = mesh(folder, stand_ins)
    path = folder / f"{Path(source).stem}_{N}.npy"
    original = Path(source).stem != "knot"
    words = f"{'' if original else 'stand-in: '}{what} at {N}^3"
    return _grid(Made(path, partial(_voxelise, source, path))), "bunny" if original else "knot", words


def mesh(folder: Path, stand_ins: Path | None) -> tuple[str, str]:
    """The path of the bunny's mesh, or else of the built-in knot's, made in the folder; and what it is."""
    for place in (Path("meshes"), stand_ins):
        if place and (found := _find(place / "bunny", MESHES)):
            return str(found), found.name
    path = folder / "knot.obj"
    return Made(path, partial(_write_knot, path)), "the built-in knot"


def gyroid(folder: Path, size: int) -> tuple[list[str], str]:
    """Options of train.py for a gyroid within a ball, an occupancy grid of size^3 cells made in the folder."""
    path = folder / f"gyroid_{size}.npy"
    return _grid(Made(path, partial(_write_gyroid, path, size))), path.stem


def crop(folder: Path, path: str, corner: tuple[int, int], size: tuple[int, int]) -> tuple[list[str], str] | None:
    """Options of train.py for a crop X Y of a picture, made in the folder.

    None, with a word on what to do, where the picture is known to be too small. What a header does not tell is known
    when it is cut.
    """
    (x, y), (width, height), own = corner, size, own_size(Path(path))
    if own and (own[0] < x + width or own[1] < y + height):
        print(f"no rows of a crop of {Path(path).stem}: {_too_small(path, own, corner, size)}", file=sys.stderr)
        return None
    cut = folder / f"{Path(path).stem}_{x}_{y}_{width}x{height}.npy"
    return ["--path", Made(cut, partial(_cut, cut, path, corner, size))], cut.stem


def random_pixels(folder: Path, size: int) -> tuple[list[str], str]:
    """Options of train.py for a square of random pixels, made in the folder."""
    path = folder / f"noise_{size}.npy"
    return ["--path", Made(path, partial(_write_noise, path, size))], path.stem


def _voxelise(source: str, path: Path) -> None:
    from datasets.mesh import Voxeliser, read_mesh

    if isinstance(source, Made):
        source.make()
    voxeliser = Voxeliser(read_mesh(source), N)
    with write_occupancy(path, voxeliser.shape, voxeliser.bounds, source) as write:
        for slab in voxeliser.slabs():
            write(slab)


def _write_knot(path: Path) -> None:
    vertices, faces = knot()
    lines = [*(f"v {x} {y} {z}" for x, y, z in vertices), *(f"f {a} {b} {c}" for a, b, c in faces + 1)]
    path.write_text("\n".join(lines) + "\n")


def _write_gyroid(path: Path, size: int) -> None:
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij")
    u, v, w = 9 * x, 9 * y, 9 * z
    wall = np.abs(np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)) < 0.5
    np.save(path, wall & (x * x + y * y + z * z < 0.9))


def _cut(path: Path, source: str, corner: tuple[int, int], size: tuple[int, int]) -> None:
    array, _ = read_image(source)
    (x, y), (width, height), (rows, columns) = corner, size, array.shape[:2]
    if rows < y + height or columns < x + width:
        raise UserError(_too_small(source, (columns, rows), corner, size))
    np.save(path, array[y : y + height, x : x + width])


def _too_small(path: str, own: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]) -> str:
    there, width, height = "x".join(map(str, own)), *size
    needed = f"{corner[0] + width}x{corner[1] + height}"
    return f"{path}: {there} is too small to cut {width}x{height} from: give one of {needed} or more"


def _write_noise(path: Path, size: int) -> None:
    np.save(path, noise(size, size))


def _grid(path: str) -> list[str]:
    return ["--task", "mesh", "--path", path]


def _find(stem: str | Path, endings: Sequence[str] = ()) -> Path | None:
    """The first file whose name begins so, and ends in one of the endings if there are any, by an absolute path."""
    stem = Path(stem)
    found = sorted(stem.parent.glob(f"{stem.name}*")) if stem.parent.is_dir() else []
    return next(
        (path.resolve() for path in found if path.is_file() and (not endings or path.suffix.lower() in endings)), None
    )
