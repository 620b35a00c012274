"""The notebooks run from top to bottom, and are committed without what they print."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import opt
from preprocess_mesh import preprocess_mesh
from train import train

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.name for path in ROOT.glob("*.ipynb"))
TINY = ["--num_epochs", "2", "2", "--quiet"]


def outputs(cell):
    """What a cell printed and showed: its text, and the kinds of its figures."""
    printed = "".join(item.get("text", "") + str(item.get("data", {}).get("text/plain", "")) for item in cell.outputs)
    return printed, {kind for item in cell.outputs for kind in item.get("data", {})}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a notebook in a folder of its own and returns what its code cells gave."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # No history, no profile of the user, and no warning about a debugger of frozen modules.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")

    def execute(name):
        notebook = nbformat.read(ROOT / name, 4)
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not [item for cell in cells for item in cell.outputs if item.get("name") == "stderr"]
        return [outputs(cell) for cell in cells]

    return execute


def test_both_are_here():
    assert NOTEBOOKS == ["image_test.ipynb", "mesh_test.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_that_ran_is_committed(name):
    for cell in nbformat.read(ROOT / name, 4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


def test_image(run):
    train(*opt.parse([*TINY, "--input_size", "70", "45", "--patch_size", "16", "--exp_name", "sample"]))
    _, loaded, figures, compared, closer, scales, together = run("image_test.ipynb")
    assert "70 x 45 RGB, 2 levels" in loaded[0]
    assert "decoded in" in figures[0] and "'psnr'" in figures[0]
    for cell in (compared, closer, scales, together):
        assert "image/png" in cell[1]


def test_mesh(run):
    preprocess_mesh(None, 24)
    argv = ["--task", "mesh", "--path", "occupancy/knot_24.npy", "--patch_size", "8", "--exp_name", "knot_128"]
    train(*opt.parse([*TINY, *argv]))
    _, loaded, figures, surfaces, blocks = run("mesh_test.ipynb")
    assert "(24, 24, 24) cells (z, y, x), 2 levels" in loaded[0]
    assert "decoded in" in figures[0] and "'iou'" in figures[0]
    for cell in (surfaces, blocks):
        assert "application/vnd.plotly.v1+json" in cell[1]
