"""What the formats of picture files hold, and how cells are fitted to them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils import UserError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WebP"}
FORMATS |= {".bmp": "BMP", ".npy": "NPY"}
MODE_CHANNELS = {"grey": 1, "grey+alpha": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
COUNT_MODES = {1: "grey", 2: "grey+alpha", 3: "RGB", 4: "RGBA"}
HELD_MODES = {
    "PNG": ("grey", "grey+alpha", "RGB", "RGBA"),
    "JPEG": ("grey", "RGB", "CMYK"),
    "TIFF": ("grey", "grey+alpha", "RGB", "RGBA", "CMYK"),
    "WebP": ("RGB", "RGBA"),
    "BMP": ("grey", "RGB"),
    "Deep Zoom": ("grey", "RGB", "RGBA"),
}
HELD_DTYPES = {
    "PNG": ("uint8", "uint16"),
    "TIFF": ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"),
}
LONGEST_SIDE = {"JPEG": 65535, "WebP": 16383}
# What a BMP, which counts its bytes in 32 bits, holds, less some room for its header.
BMP_BYTES = 2**32 - 2**12


@dataclass(frozen=True)
class Fit:
    """A function of rows of cells [h, w, c] that gives them as a format holds them.

    Args:
        mode, dtype: of what comes out.
        notes: one line each on what is lost.
        steps: functions of rows, in order; none where the format holds all there is.
    """

    mode: str
    dtype: np.dtype
    notes: tuple[str, ...] = ()
    steps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()

    @property
    def channels(self) -> int:
        return MODE_CHANNELS[self.mode]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        for step in self.steps:
            rows = step(rows)
        return rows.astype(self.dtype, copy=False)

    def then(self, step: Callable, note: str, mode: str | None = None, dtype: np.dtype | type | None = None) -> "Fit":
        return replace(
            self,
            mode=mode or self.mode,
            dtype=np.dtype(dtype or self.dtype),
            notes=(*self.notes, note),
            steps=(*self.steps, step),
        )


def check_picture(path: Path, file_format: str, shape: tuple[int, int, int], mode: str) -> None:
    """Raise UserError for a picture [height, width, channels] that a format cannot hold at all, or for a folder."""
    if mode in MODE_CHANNELS and MODE_CHANNELS[mode] != shape[2]:
        raise ValueError(f"array of shape {shape} for {mode}")
    if path.is_dir():
        raise UserError(f"{path}: a folder: name a file to write")
    if mode not in MODE_CHANNELS and file_format != "NPY":
        raise UserError(f"{path}: {file_format} cannot hold {shape[2]} channels: use the ending .npy")
    side = max(shape[:2])
    longest = LONGEST_SIDE.get(file_format, side)
    if side > longest:
        raise UserError(f"{path}: {side} pixels on a side; {file_format} holds at most {longest}: use .png or .tif")
    # Rows of 1 or 3 bytes a pixel, whatever the mode, filled up to a multiple of 4.
    row_bytes = -(-shape[1] * (1 if mode.startswith("grey") else 3) // 4) * 4
    if file_format == "BMP" and shape[0] * row_bytes > BMP_BYTES:
        raise UserError(f"{path}: {shape[1]} x {shape[0]} pixels; BMP holds at most 4 GiB: use .png or .tif")


def fit_format(mode: str, dtype: np.dtype, file_format: str, value_range: tuple[float, float]) -> Fit:
    """How cells of a mode and dtype are written in a format.

    `value_range` is what becomes black and white where floats, or integers without an agreed white, become smaller
    integers.
    """
    fit = Fit(mode, np.dtype(dtype))
    held = HELD_MODES[file_format]
    if mode.endswith(("A", "+alpha")) and "RGBA" not in held:
        opaque = "grey" if mode == "grey+alpha" else "RGB"
        note = f"{file_format} holds no transparency: alpha was dropped"
        fit = fit.then(lambda rows: rows[..., :-1], note, mode=opaque)
    dtypes = HELD_DTYPES.get(file_format, ("uint8",))
    if mode == "CMYK" and file_format == "TIFF":
        dtypes = ("uint8",)
    if fit.dtype.name not in dtypes:
        fit = _fit_dtype(fit, file_format, dtypes, value_range)
    if mode == "CMYK" and mode not in held:
        top = np.iinfo(fit.dtype).max

        def to_rgb(rows: np.ndarray) -> np.ndarray:
            light = top - rows.astype(np.float64)
            return np.rint(light[..., :3] * light[..., 3:] / top)

        fit = fit.then(to_rgb, f"{file_format} holds no CMYK: it was converted to RGB without a colour profile", "RGB")
    if fit.mode.startswith("grey") and (
        fit.mode not in held or ((fit.mode, file_format) == ("grey+alpha", "TIFF") and fit.dtype != np.uint8)
    ):
        channels = [0, 0, 0, *range(1, fit.channels)]
        coloured = COUNT_MODES[len(channels)]
        note = f"{file_format} holds no such grey: it was written as {coloured} with equal colours"
        fit = fit.then(lambda rows: rows[..., channels], note, mode=coloured)
    return fit


def _fit_dtype(fit: Fit, file_format: str, dtypes: tuple[str, ...], value_range: tuple[float, float]) -> Fit:
    name, kind = fit.dtype.name, fit.dtype.kind
    if name == "bool":
        return fit.then(lambda rows: rows * np.uint8(255), "bool was written as 0 and 255", dtype=np.uint8)
    if kind == "f" and "float64" in dtypes:
        wider = np.float32 if name == "float16" else np.float64
        note = f"{file_format} holds no {name}: it was written as {np.dtype(wider)}"
        return fit.then(lambda rows: rows.astype(wider), note, dtype=wider)
    dtype = np.uint16 if "uint16" in dtypes else np.uint8
    if name == "uint16":
        note = f"{file_format} holds 8 bits a channel: the 16-bit values were scaled down"
        return fit.then(lambda rows: (rows.astype(np.uint32) + 128) // 257, note, dtype=dtype)
    low, high = value_range
    top = np.iinfo(dtype).max

    def scale(rows: np.ndarray) -> np.ndarray:
        # By halves, for the whole range may be more than a float holds.
        unit = np.nan_to_num((rows.astype(np.float64) / 2 - low / 2) / max(high / 2 - low / 2, 1e-300))
        return np.rint(np.clip(unit, 0, 1) * top)

    note = f"{file_format} holds at most {8 * np.dtype(dtype).itemsize}-bit integers"
    note += f": the {name} values {low:g} to {high:g} were scaled to 0 to {top}"
    return fit.then(scale, note, dtype=dtype)
