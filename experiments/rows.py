"""A row is one run of train.py and its figures: run in a process of its own, written down at once, shown as a table."""

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import opt
from datasets.grid import Grid
from experiments.inputs import Made
from options import Options
from utils import Interrupted, device_name, jsonable, versions

KEPT = (
    "psnr", "psnr_worst_block", "ssim", "iou", "n_params", "fit_s", "model_bytes", "peak_device_bytes",
    "fit_peak_device_bytes", "peak_host_bytes", "engine", "precision", "device", "seed", "versions", "options",
)  # fmt: skip
# The mean square error that some blocks of a tiny run fall below before its last round.
DONE = 0.02
# Of rows that train nothing, and of those that fail.
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        table, group, name: where it is shown; a name is unique within its table.
        argv: options of train.py; of the variant "voxels" what experiments.voxels takes.
        variant: of experiments.variants, or "none"; or "voxels".
        about: what else the table shows, by column.
        place: within its table.
    """

    table: str
    group: str
    name: str
    argv: tuple[str, ...]
    variant: str = "none"
    about: dict[str, Any] = field(default_factory=dict)
    place: int = 0


def measure(row: Row, deadline: float = math.inf, tiny: bool = False, alone: bool = True) -> dict[str, Any] | None:
    """The figures of a row, or the error that it ended with; None past the deadline.

    A tiny run is of a few cells and epochs, to try it out, and its figures are marked so. Only the times of one that is
    alone on the machine count.
    """
    if time.time() > deadline:
        return None
    from experiments.variants import applied

    facts = _facts(row, tiny, alone)
    started, said = time.perf_counter(), io.StringIO()
    try:
        if row.variant == "voxels":
            return facts | _voxels(row, tiny, alone)
        options, given = opt.parse([*row.argv, "--quiet", "--exp_name", "row"])
        if tiny:
            options = _tiny(options)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if torch.cuda.is_available() and not tiny:
                with applied(row.variant):
                    _train(_tiny(options), frozenset())
            with applied(row.variant) as noted:
                result = _train(options, given)
    except (Exception, Interrupted) as error:
        return facts | _failed(error)
    levels = result["levels"].values()
    return facts | {key: result.get(key) for key in KEPT} | {
        "about": row.about | noted,
        "networks": sum(level["active"] for level in levels),
        "converged": sum(level["converged"] for level in levels),
        "row_s": time.perf_counter() - started,
    }  # fmt: skip


def run_rows(
    rows: list[Row], folder: Path, jobs: int = 1, deadline: float = math.inf, tiny: bool = False
) -> list[dict[str, Any]]:
    """Measure rows, `jobs` at a time over all GPUs, each appended to folder/<table>.jsonl as it comes.

    What they are measured on is made before. A row that fails, as one whose input cannot be made, or kills its process,
    is written down as failed and loses no other. Once `time.time()` is past the
    deadline no row begins; those that are left are named on stderr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results, able = [], []
    failed = _make_inputs(rows, tiny) if time.time() <= deadline else {}
    for row in rows:
        if lacking := [word for word in row.argv if word in failed]:
            results.append(_note(folder, _facts(row, tiny, jobs == 1) | failed[lacking[0]]))
        else:
            able.append(row)
    rows = able
    with tempfile.TemporaryDirectory() as scratch:
        while rows:
            left = []
            with _pool(jobs, scratch) as pool, _ended_if_interrupted(pool):
                futures = {pool.submit(measure, row, deadline, tiny, jobs == 1): row for row in rows}
                for future in concurrent.futures.as_completed(futures):
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        left.append(futures[future])
                        continue
                    if result is None:
                        print(f"out of time for {futures[future].table} {futures[future].name}", file=sys.stderr)
                    else:
                        results.append(_note(folder, result))
            if len(left) == len(rows):
                # Nothing came through, so it is the first of them that kills its process.
                results.append(_note(folder, _facts(rows[0], tiny, jobs == 1) | {"error": "its process died"}))
                left.remove(rows[0])
            rows = [row for row in rows if row in left]
    return results


def read(folder: Path, table: str, tiny: bool = False) -> list[dict[str, Any]]:
    """The last result of every row of a table, in the order of the table: of whole runs, or of tiny ones.

    Only times of results that were alone count. Where the last one was not, the last that was stands in its place, if
    it is of the same state of the program and has the same figures. If not, it comes after it, and says so in a column.
    A line that was cut short is left out, with a word on stderr.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for result in _lines(folder / f"{table}.jsonl"):
        if result.get("tiny", False) == tiny:
            found.setdefault(result["name"], []).append(result)
    shown = [result for results in found.values() for result in _last(results)]
    return sorted(shown, key=lambda result: result.get("place", 0))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for n, line in enumerate(path.read_text().splitlines() if path.is_file() else (), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            print(f"{path}: line {n} was cut short, as by a full disk, and is left out", file=sys.stderr)


def _last(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the results of a row in the order in which they came, the one to show, or two."""
    last = results[-1]
    timed = next((result for result in reversed(results) if result.get("alone") and "error" not in result), last)
    if timed is last or not _same_command(timed, last):
        return [last]
    if all(timed.get(key) == last.get(key) for key in ("device", "versions", "error", "psnr", "iou", "n_params")):
        return [timed]
    return [last, timed | {"about": timed["about"] | {"measured": "earlier, alone"}}]


def _same_command(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two results of a name are of the same variant and options, wherever their input was."""
    one, other = (result.get("options") or {} for result in (first, second))
    options = (one.keys() & other.keys()) - {"path", "exp_name"}
    return first.get("variant") == second.get("variant") and all(one[name] == other[name] for name in options)


def states(results: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The machines and versions that results are of, in words; and the results, which say of which where they differ.

    A result from before the program had a version says nothing of it.
    """
    said = [
        f"{result.get('device', '')}, {', '.join(f'{name} {of}' for name, of in result.get('versions', {}).items())}."
        for result in results
    ]
    letters = {words: chr(ord("a") + n) for n, words in enumerate(dict.fromkeys(said))}
    if len(letters) == 1:
        return said[0], results
    marked = [
        result | {"about": result["about"] | {"by": letters[words]}}
        for result, words in zip(results, said, strict=True)
    ]
    return "By " + "\n\n".join(f"{letter}: {words}" for words, letter in letters.items()), marked


def markdown(results: Iterable[dict[str, Any]]) -> str:
    """Results as Markdown tables, one a group, with only the columns that a group has."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["group"], []).append(result)
    return "\n\n".join(f"### {group}\n\n{_table(members)}" for group, members in groups.items())


def _table(results: list[dict[str, Any]]) -> str:
    columns: dict[str, None] = {}
    lines = []
    for result in results:
        name = result["name"].split(": ", 1)[-1]
        about = {key: str(value) for key, value in result["about"].items() if value not in ("", name)}
        line = {"row": name, **_figures(result), **about}
        lines.append(line)
        columns |= dict.fromkeys(line)
    table = [list(columns), ["---"] * len(columns), *([line.get(name, "") for name in columns] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _make_inputs(rows: list[Row], tiny: bool) -> dict[str, dict[str, Any]]:
    """Make the files that rows are measured on; by path what is written of the rows of one that could not be made."""
    failed = {}
    # A tiny run of train.py has an input of its own.
    needed = [row.argv for row in rows if not tiny or row.variant == "voxels"]
    for path in dict.fromkeys(word for argv in needed for word in argv if isinstance(word, Made)):
        try:
            path.make()
        except Exception as error:
            failed[path] = _failed(error)
    return failed


def _facts(row: Row, tiny: bool, alone: bool) -> dict[str, Any]:
    """What is known of a row before it is measured."""
    where = {"versions": versions(CPU), "device": device_name(CPU)}
    return dataclasses.asdict(row) | {"tiny": tiny, "alone": alone} | where


def _failed(error: BaseException) -> dict[str, Any]:
    lines = traceback.format_exc().strip().splitlines()
    return {"error": f"{type(error).__name__}: {error}"[:300], "where": lines[-3:]}


def _figures(result: dict[str, Any]) -> dict[str, str]:
    if "error" in result:
        return {"quality": f"failed: {result['error'][:80]}"}
    if "psnr" not in result:
        return {}
    shape = result.get("iou") is not None
    memory = {"GPU, fit (MiB)": result.get("fit_peak_device_bytes"), "GPU (MiB)": result.get("peak_device_bytes")}
    blocks, networks = _blocks(result["options"]), result["networks"]
    return {
        "quality": f"IoU {result['iou']:.6f}" if shape else f"{result['psnr']:.2f} dB" if result["psnr"] else "-",
        "params (M)": f"{result['n_params'] / 1e6:.3f}",
        **({"fit (s)": f"{result['fit_s']:.2f}"} if result.get("alone") else {}),
        **{column: f"{bytes_ / 2**20:.0f}" for column, bytes_ in memory.items() if bytes_},
        "networks": f"{networks} of {blocks}, {networks / blocks:.0%}; {result['converged']} good",
        **({"us a network": f"{result['fit_s'] / networks * 1e6:.1f}"} if result.get("alone") and networks else {}),
        "engine": result["engine"],
    }


def _blocks(options: dict[str, Any]) -> int:
    """All blocks of all levels, with a network or without."""
    grid = Grid(tuple(options["input_size"][::-1]), tuple(options["patch_size"][::-1]), options["n_scales"])
    return sum(grid.n_blocks(level) for level in range(grid.n_levels))


def _train(options: Options, given: frozenset[str]) -> dict[str, Any]:
    from train import train

    return train(options, given)


def _tiny(options: Options) -> Options:
    """A run of the same networks on a few cells, which compiles the kernels of the whole one."""
    small = {"path": None, "input_size": (70, 45)}
    if options.task != "image":
        np.save("tiny.npy", np.linalg.norm(np.indices((20,) * 3) - 9.5, axis=0) < 9)
        small = {"path": "tiny.npy", "input_size": None}
    return dataclasses.replace(options, num_epochs=(4,), val_freq=1, n_scales=3, loss_thr=DONE, prune_thr=DONE, **small)


def _voxels(row: Row, tiny: bool, alone: bool) -> dict[str, Any]:
    from experiments.voxels import MOST, SEED, N, agreement

    path, samples, votes, removed = row.argv
    options = {"path": path, "N": 12 if tiny else N, "M": int(samples), "T": int(votes), "removed": float(removed)}
    figures = agreement(path, options["M"], options["T"], options["removed"], options["N"])
    if not alone:
        del figures["s"]
    return {"about": row.about | figures, "seed": SEED, "options": options | {"held_against_M": MOST}}


def _pool(jobs: int, scratch: str) -> concurrent.futures.ProcessPoolExecutor:
    # Spawned, for a CUDA context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(jobs, context, _settle_down, (scratch, context.Value("i", 0)))


@contextlib.contextmanager
def _ended_if_interrupted(pool: concurrent.futures.Executor) -> Iterator[None]:
    """Measure no row that waits, and none to its end, once this process is to end."""
    try:
        yield
    except BaseException:
        # A pool waits for workers that may be waiting for it, where they were interrupted too.
        for worker in multiprocessing.active_children():
            worker.kill()
        pool.shutdown(cancel_futures=True)
        raise


def _settle_down(scratch: str, settled: Any) -> None:
    """Let a worker write its runs into a folder of its own, and take the GPUs of the machine in turn."""
    os.chdir(tempfile.mkdtemp(dir=scratch))
    with settled:
        number, settled.value = settled.value, settled.value + 1
    if gpus := torch.cuda.device_count():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[number % gpus]


def _note(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    result = jsonable(result)
    with open(folder / f"{result['table']}.jsonl", "a+b") as file:
        # What was cut short is a line by itself.
        file.seek(max(0, file.tell() - 1))
        begin = b"\n" if file.read(1) not in (b"", b"\n") else b""
        file.write(begin + json.dumps(result, allow_nan=False).encode() + b"\n")
    figures = " ".join(_figures(result).values()) or " ".join(map(str, result["about"].values()))
    print(f"{result['table']} | {result['name']} | {figures}", flush=True)
    return result
