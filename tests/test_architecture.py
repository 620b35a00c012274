"""The map of the house: imports only go down, and what is heavy or particular is imported in its own place only.

A file that is not on the map fails the first test: put it on the floor where it belongs.
"""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import utils

ROOT = Path(__file__).resolve().parent.parent

# Floor by floor, as in docs/architecture.md. A module imports from floors below, or from its own without a circle.
FLOORS = {
    "utils": 0,
    "options": 0,
    "options.presets": 0,
    "options.refusals": 0,
    "opt": 0,
    "machine": 0,
    "machine.cores": 0,
    "machine.memory": 0,
    "machine.ranks": 0,
    "machine.launch": 0,
    "losses": 1,
    "metrics": 1,
    "pictures": 1,
    "pictures.render": 1,
    "datasets.grid": 1,
    "datasets.resample": 1,
    "models": 1,
    "models.encoding": 1,
    "models.frame": 1,
    "models.lanes": 1,
    "models.muon": 1,
    "models.network": 1,
    "models.optimizers": 1,
    "models.engine": 1,
    "models.engine.contract": 1,
    "models.engine.reference": 1,
    "models.engine.closed_form": 1,
    "models.engine.fused": 1,
    "models.engine.kernels": 1,
    "models.engine.matrices": 1,
    "models.engine.arithmetic": 1,
    "models.engine.compose": 1,
    "datasets": 2,
    "datasets.beside": 2,
    "datasets.big_image": 2,
    "datasets.big_picture": 2,
    "datasets.file_array": 2,
    "datasets.image": 2,
    "datasets.image_format": 2,
    "datasets.image_writer": 2,
    "datasets.knot": 2,
    "datasets.mesh": 2,
    "datasets.npy": 2,
    "datasets.occupancy": 2,
    "datasets.raw_tiff": 2,
    "datasets.resize": 2,
    "datasets.residual": 2,
    "datasets.excerpt": 2,
    "datasets.samples": 2,
    "datasets.source": 2,
    "datasets.streamed_source": 2,
    "datasets.surface": 2,
    "datasets.tiff": 2,
    "datasets.volume": 2,
    "datasets.zarr_array": 2,
    "models.block_mlp": 2,
    "models.checkpoints": 2,
    "models.chunks": 2,
    "models.clock": 2,
    "models.draft": 2,
    "models.flight": 2,
    "models.rows": 2,
    "models.recent_blocks": 2,
    "models.precision": 2,
    "models.points": 2,
    "models.training_copy": 2,
    "models.inheritance": 2,
    "models.level_fit": 2,
    "models.recipe": 2,
    "models.rounds": 2,
    "models.forecast": 2,
    "models.store": 2,
    "models.miner": 3,
    "models.pyramid": 3,
    "models.model_file": 3,
    "models.warm_up": 3,
    "pictures.blocks": 3,
    "pictures.figures": 3,
    "pictures.levels": 3,
    "pictures.surfaces": 3,
    "run": 3,
    "run.report": 3,
    "viewer": 3,
    "viewer.layers": 3,
    "viewer.scene": 3,
    "viewer.server": 3,
    "viewer.site": 3,
    "train": 4,
    "run.session": 4,
    "run.result": 4,
    "run.setup": 4,
    "run.callbacks": 4,
    "planning": 4,
    "planning.levels": 4,
    "planning.memory": 4,
    "planning.plan": 4,
    "planning.rehearsal": 4,
    "planning.pace": 4,
    "reconstruct": 4,
    "view": 4,
    "preprocess_mesh": 4,
    "benchmark": 4,
    "experiments": 4,
    "experiments.__main__": 4,
    "experiments.rows": 4,
    "experiments.inputs": 4,
    "experiments.settings": 4,
    "experiments.variants": 4,
    "experiments.results": 4,
    "experiments.claims": 4,
    "experiments.noise": 4,
    "experiments.voxels": 4,
    "experiments.tried": 4,
    "experiments.curve": 4,
    "experiments.times": 4,
    "experiments.watched": 4,
}

# What `models` may take from `datasets`; `datasets` takes nothing from `models`.
SHARED = {"datasets.grid", "datasets.resample", "datasets.source", "datasets.residual", "datasets.excerpt"}

# Who may import these, and what they hold, and nobody else.
ONLY_IN = {
    "options.presets": {"options", "opt", "run.result"},
    "options.refusals": {"opt", "run.setup"},
    "options": {
        "options.refusals",
        "opt",
        "train",
        "run.session",
        "run.setup",
        "run.result",
        "view",
        "experiments.rows",
    },
    "opt": {
        "train",
        "run.session",
        "run.setup",
        "run.result",
        "reconstruct",
        "view",
        "preprocess_mesh",
        "benchmark",
        "experiments.__main__",
        "experiments.rows",
    },
    "pytorch_lightning": {"models.miner", "run.callbacks", "train"},
    "triton": {
        "models.engine.fused",
        "models.engine.kernels",
        "models.engine.matrices",
        "models.engine.arithmetic",
        "models.engine.compose",
    },
    "torch_optimizer": {"models.optimizers"},
    "trimesh": {"datasets.mesh", "datasets.surface", "preprocess_mesh"},
    "plotly": {"pictures.figures"},
    "pyvips": {"datasets.big_image", "datasets.big_picture"},
    "zarr": {"datasets.zarr_array"},
    "mcubes": {"datasets.surface"},
}


def modules(root=ROOT):
    """Every module of the project: {dotted name: file}."""
    folders = ("datasets", "experiments", "machine", "models", "options", "pictures", "planning", "run", "viewer")
    files = [*root.glob("*.py"), *(file for folder in folders for file in (root / folder).rglob("*.py"))]
    names = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(source, known):
    """Dotted names that a source imports anywhere, also within functions; modules of the project in full."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner
            # `from models import model_file` takes the module and nothing of the package.
            if len(inner) < len(node.names):
                found.add(node.module)
    return found


def within(name, owner):
    return f"{name}.".startswith(f"{owner}.")


def violations(graph):
    """What the map forbids in a graph {module: imports}, one line each."""
    lines = []
    for module, names in graph.items():
        for name in sorted(names):
            if name in FLOORS and FLOORS[name] > FLOORS[module]:
                lines.append(f"{module} (floor {FLOORS[module]}) imports {name} of floor {FLOORS[name]} above it")
            if module.startswith("datasets") and name.split(".")[0] == "models":
                lines.append(f"{module} imports {name}: datasets never import models")
            if module.startswith("models") and name.split(".")[0] == "datasets" and name not in SHARED:
                lines.append(f"{module} imports {name}: models take {', '.join(sorted(SHARED))} only")
            lines += [
                f"{module} imports {owner}, which only {', '.join(sorted(few))} may"
                for owner, few in ONLY_IN.items()
                if within(name, owner) and module not in few and module != owner
            ]
    return lines


def circles(graph):
    """Modules that import one another in a circle."""
    graph = {module: {name for name in names if name in graph} for module, names in graph.items()}
    while free := {module for module, names in graph.items() if not names}:
        graph = {module: names - free for module, names in graph.items() if module not in free}
    return sorted(graph)


def graph():
    found = modules()
    return {module: imports(file.read_text(), found.keys()) for module, file in found.items()}


def test_every_file_is_on_the_map():
    missing = sorted(modules().keys() - FLOORS.keys())
    assert not missing, f"put {', '.join(missing)} on a floor in tests/test_architecture.py and in docs/architecture.md"


def test_every_place_on_the_map_is_there():
    gone = sorted(FLOORS.keys() - modules().keys())
    assert not gone, f"take {', '.join(gone)} off the map"


def test_the_map_in_the_docs_is_the_same():
    rows = [
        line.split("|")
        for line in (ROOT / "docs" / "architecture.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    places = {floor: " ".join(row[2] for row in rows if row[1].strip() == str(floor)) for floor in range(5)}
    for module, file in modules().items():
        if file.name != "__init__.py":
            named = {"engine": "models/engine/", "experiments": "experiments/"}.get(file.parent.name, file.name)
            assert named in places[FLOORS[module]], (
                f"docs/architecture.md does not have {named} on floor {FLOORS[module]}"
            )


def test_the_hash_of_the_program_covers_what_a_result_depends_on():
    covered = {file for part in utils.PARTS for file in ROOT.glob(part)}
    left_out = {name for name, file in modules().items() if file not in covered}
    assert {name.split(".")[0] for name in left_out} == {"viewer", "experiments"}


def test_imports_only_go_down():
    found = {module: names for module, names in graph().items() if module in FLOORS}
    assert violations(found) == []


def test_who_may_import_what_few_may_does_so():
    found = graph()
    idle = [
        (owner, module)
        for owner, few in ONLY_IN.items()
        for module in few
        if not any(within(name, owner) for name in found[module])
    ]
    assert idle == []


def test_no_modules_import_one_another_in_a_circle():
    assert circles(graph()) == []


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("utils", "import losses", True),
        ("datasets.grid", "from models.network import Network", True),
        ("datasets.source", "def f():\n    from models import network", True),
        ("models.level_fit", "from datasets.image import read_image", True),
        ("models.level_fit", "from datasets import open_source", True),
        ("models.level_fit", "from datasets.grid import Grid\nfrom datasets.residual import LevelTargets", False),
        ("models.pyramid", "import pytorch_lightning as pl", True),
        ("models.miner", "import pytorch_lightning as pl", False),
        ("models.engine.reference", "import triton.language as tl", True),
        ("models.engine.fused", "import triton.language as tl", False),
        ("run.report", "import trimesh", True),
        ("models.miner", "from options import Options", True),
        ("models.miner", "from options.presets import PRESETS", True),
        ("view", "from options.presets import PRESETS", True),
        ("train", "import opt\nfrom models import model_file", False),
        ("run.report", "from train import train", True),
    ],
)
def test_the_rules_catch_what_they_forbid(module, source, forbidden):
    lines = violations({module: imports(source, FLOORS.keys())})
    assert bool(lines) == forbidden, lines


def test_a_circle_is_found():
    assert circles({"a": {"b", "numpy"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_importing_any_module_does_nothing_visible(tmp_path):
    names = sorted(modules())
    if importlib.util.find_spec("triton") is None:
        names = [name for name in names if name not in ONLY_IN["triton"]]
    lines = "\n".join(f"import {name}" for name in names)
    done = subprocess.run(
        [sys.executable, "-B", "-c", lines],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
