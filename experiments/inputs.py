"""What the tables are measured on: the originals where they are, else stand-ins of the same size, and it is said."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.image import read_image
from datasets.image_writer import lenient
from datasets.knot import knot
from datasets.occupancy import write_occupancy
from datasets.samples import noise
from utils import UserError

# Where the originals of the seeds' table are looked for, and what stands in for them: a picture by the start of its
# file's name, resized, or the built-in sample, made at that size.
ORIGINALS = {"pluto": "images/pluto", "tokyo": "images/tokyo-station", "shibuya": "images/shibuya"}
MESHES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
STAND_INS = {"pluto": "moon", "tokyo": "relief8k", "shibuya": "relief8k", "shibuya large": None}
# Cells of the bunny along an axis.
N = 512


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
            return _grid(path), "bunny", path.name
    try:
        from datasets.mesh import Voxeliser, read_mesh
    except ImportError as error:
        print(f"no rows of the bunny: {error}: pip install trimesh, or bring occupancy/bunny_{N}.npy", file=sys.stderr)
        return None
    source, what = mesh(folder, stand_ins)
    voxeliser, path = Voxeliser(read_mesh(source), N), folder / f"{Path(source).stem}_{N}.npy"
    with write_occupancy(path, voxeliser.shape, voxeliser.bounds, source) as write:
        for slab in voxeliser.slabs():
            write(slab)
    original = Path(source).stem != "knot"
    return _grid(path), "bunny" if original else "knot", f"{'' if original else 'stand-in: '}{what} at {N}^3"


def mesh(folder: Path, stand_ins: Path | None) -> tuple[str, str]:
    """The path of the bunny's mesh, or else of the built-in knot's, written to the folder; and what it is."""
    for place in (Path("meshes"), stand_ins):
        if place and (found := _find(place / "bunny", MESHES)):
            return str(found), found.name
    path = folder / "knot.obj"
    vertices, faces = knot()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*(f"v {x} {y} {z}" for x, y, z in vertices), *(f"f {a} {b} {c}" for a, b, c in faces + 1)]
    path.write_text("\n".join(lines) + "\n")
    return str(path.resolve()), "the built-in knot"


def gyroid(folder: Path, size: int) -> tuple[list[str], str]:
    """Options of train.py for a gyroid within a ball, an occupancy grid of size^3 cells written to the folder."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij")
    u, v, w = 9 * x, 9 * y, 9 * z
    wall = np.abs(np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)) < 0.5
    return _written(folder / f"gyroid_{size}.npy", wall & (x * x + y * y + z * z < 0.9), ["--task", "mesh"])


def crop(folder: Path, path: str, corner: Sequence[int], size: Sequence[int]) -> tuple[list[str], str]:
    """Options of train.py for a crop X Y of a picture, written to the folder."""
    array, _ = read_image(path)
    (x, y), (width, height) = corner, size
    if y + height > array.shape[0] or x + width > array.shape[1]:
        there, needed = f"{array.shape[1]}x{array.shape[0]}", f"{x + width}x{y + height}"
        raise UserError(f"{path}: {there} is too small to cut {width}x{height} from: give one of {needed} or more")
    name = f"{Path(path).stem}_{x}_{y}_{width}x{height}.npy"
    return _written(folder / name, array[y : y + height, x : x + width], [])


def random_pixels(folder: Path, size: int) -> tuple[list[str], str]:
    """Options of train.py for a square of random pixels, written to the folder."""
    return _written(folder / f"noise_{size}.npy", noise(size, size), [])


def _grid(path: Path) -> list[str]:
    return ["--task", "mesh", "--path", str(path.resolve())]


def _written(path: Path, array: np.ndarray, options: list[str]) -> tuple[list[str], str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return [*options, "--path", str(path.resolve())], path.stem


def _find(stem: str | Path, endings: Sequence[str] = ()) -> Path | None:
    """The first file whose name begins so, and ends in one of the endings if there are any, by an absolute path."""
    stem = Path(stem)
    found = sorted(stem.parent.glob(f"{stem.name}*")) if stem.parent.is_dir() else []
    return next(
        (path.resolve() for path in found if path.is_file() and (not endings or path.suffix.lower() in endings)), None
    )
