"""Volumes: scalar or multi-channel grids in .npy or .npz files, as a scanner or a simulation leaves them."""

from pathlib import Path
from zipfile import is_zipfile

import numpy as np

from utils import UserError

ADVICE = "save one array as (z, y, x) or (z, y, x, channels) of bool, integers or floats with numpy"
SLAB_CELLS = 2**24


def read_volume(path: str | Path) -> np.ndarray:
    """The array [z, y, x, c] of a .npy file, or the only array of an .npz file.

    Raises:
        UserError: the file is missing or cut, holds another kind of array, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file: check --path" if not path.exists() else f"{path}: not a file: {ADVICE}")
    try:
        # Mapped copy-on-write: torch warns of arrays that it may not write.
        array = _only_array(path) if is_zipfile(path) else np.asarray(np.lib.format.open_memmap(path, mode="c"))
    except (UserError, PermissionError):
        raise
    # A cut or foreign file reaches the zip reader and the parser of headers, each with errors of its own.
    except Exception as error:
        what = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(f"{path}: not a whole .npy or .npz file ({what}): {ADVICE}") from None
    if array.dtype.kind not in "biuf" or array.ndim not in (3, 4) or not array.size:
        raise UserError(f"{path}: an array of {array.dtype} and shape {list(array.shape)}: {ADVICE}")
    array = array if array.ndim == 4 else array[..., None]
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    _refuse_non_finite(path, array)
    return array


def _only_array(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if len(archive.files) != 1:
            raise UserError(f"{path}: holds {len(archive.files)} arrays, {', '.join(archive.files[:5])}: {ADVICE}")
        return archive[archive.files[0]]


def _refuse_non_finite(path: Path, array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    layers = max(1, SLAB_CELLS // array[0].size)
    for first in range(0, len(array), layers):
        finite = np.isfinite(array[first : first + layers])
        if not finite.all():
            z, y, x, _ = np.unravel_index(finite.argmin(), finite.shape)
            raise UserError(f"{path}: not a finite number at z {first + z}, y {y}, x {x}: replace such values")
