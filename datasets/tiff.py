"""What the header of a TIFF says: its tags, and how much of the file is beyond its first page."""

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import TiffImagePlugin

from datasets.image_writer import lenient
from utils import UserError

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUBFILE = 254
# Bits of that tag: a smaller copy of a page, and a mask of one.
COPY, MASK = 1, 4


def tiff_tags(path: Path, header: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first page of a TIFF, given the first 16 bytes of the file."""
    tags = _directory(header)
    with open(path, "rb") as file:
        file.seek(tags.next)
        tags.load(file)
    return tags


def _directory(header: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    # Version 43 is BigTIFF, whose header is 16 bytes long.
    return TiffImagePlugin.ImageFileDirectory_v2(header if 43 in header[2:4] else header[:8])


def check_planes(path: Path, tags: Mapping[int, Any]) -> None:
    """Raise UserError for an OME-TIFF whose channels, slices or times are pages, of which only one would be read."""
    # Some write it as bytes.
    described = str(tags.get(270, ""))
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*", described)
    if not pixels or "openmicroscopy" not in described.lower():
        return
    sizes = {axis: int(n) for axis, n in re.findall(r'\bSize([CZT])="(\d+)"', pixels[0])}
    pages = math.prod(sizes.values()) // (tags.get(277, 1) if sizes.get("C") == tags.get(277, 1) else 1)
    if pages > 1:
        told = ", ".join(f"{n} along {axis}" for axis, n in sizes.items())
        raise UserError(f"{path}: an OME-TIFF of {pages} pages ({told}), of which one would be read: save it as one "
                        ".npy array (y, x, channels), as OME-Zarr, or one page of it")  # fmt: skip


def page_count(path: Path) -> int:
    """The pages of a TIFF, without smaller copies of them and masks; 0 of any other file."""
    with open(path, "rb") as file, lenient():
        header = file.read(16)
        if header[:4] not in TIFF_STARTS:
            return 0
        seen, found = set(), 0
        # A damaged chain may lead out of the file, or in a circle; what is beyond the first page is not read anyway.
        with contextlib.suppress(Exception):
            tags = _directory(header)
            while 0 < tags.next < path.stat().st_size and tags.next not in seen:
                seen.add(tags.next)
                file.seek(tags.next)
                tags.load(file)
                found += not tags.get(SUBFILE, 0) & (COPY | MASK)
    return found
