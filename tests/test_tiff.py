"""What a TIFF says of its pages."""

from pathlib import Path

import pytest
from PIL import Image

from datasets.samples import planet
from datasets.tiff import check_planes, page_count
from utils import UserError

PLANET = planet(70, 90)


def write_pages(path, n, **options):
    first, *others = [Image.fromarray(PLANET[k:]) for k in range(n)]
    first.save(path, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}], ids=str)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_pages_are_counted(tmp_path, n, options):
    write_pages(tmp_path / "a.tif", n, **options)
    assert page_count(tmp_path / "a.tif") == n


def test_planes_are_found_in_a_description_of_any_type():
    said = b'<OME xmlns="http://www.openmicroscopy.org"><Pixels SizeC="2" SizeZ="3"/></OME>'
    with pytest.raises(UserError, match="OME-TIFF of 6 pages"):
        check_planes(Path("x.tif"), {270: said})


def test_a_pyramid_is_one_page(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    image = pyvips.Image.new_from_array(PLANET)
    image.tiffsave(str(tmp_path / "a.tif"), tile=True, tile_width=16, tile_height=16, pyramid=True)
    with Image.open(tmp_path / "a.tif") as file:
        assert file.n_frames > 1
    assert page_count(tmp_path / "a.tif") == 1


@pytest.mark.parametrize("content", [b"", b"II*\0", b"\x89PNG\r\n\x1a\n", b"II*\0" + b"\xff" * 20])
def test_what_is_no_tiff_has_none(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert page_count(tmp_path / "a") == 0


def test_a_chain_that_leads_in_a_circle_or_out_of_the_file_ends(tmp_path):
    # A directory of no tags, and where the next one is.
    directory = lambda following: (0).to_bytes(2, "little") + following.to_bytes(4, "little")  # noqa: E731
    for following, pages in ((8, 1), (14, 2), (10**6, 1)):
        (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + directory(following) + directory(8))
        assert page_count(tmp_path / "a.tif") == pages
