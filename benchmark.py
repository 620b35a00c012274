"""Measure a run of train.py: the same options several times in one process, as a table of medians.

python benchmark.py [--runs 5] [--warmup 1] -- <options of train.py>
"""

import argparse
import contextlib
import dataclasses
import gc
import io
import statistics
from typing import Any

import opt
from train import train
from utils import UserError, run_command

# Of runs that were given no --exp_name.
NAME = "benchmark"
COLUMNS = {
    "fit_s": ("fit (s)", 1, ".3f"),
    "save_s": ("save (s)", 1, ".3f"),
    "psnr": ("PSNR (dB)", 1, ".2f"),
    "iou": ("IoU", 1, ".6f"),
    "n_params": ("params (M)", 1e6, ".3f"),
    "model_bytes": ("model (MB)", 1e6, ".2f"),
    "peak_host_bytes": ("host memory (MiB)", 2**20, ".0f"),
    "peak_device_bytes": ("GPU memory (MiB)", 2**20, ".0f"),
}


def benchmark(argv: list[str], runs: int, warmup: int) -> list[dict[str, Any]]:
    """The figures of `runs` runs of train.py with these options, after `warmup` runs that do not count."""
    options, given = opt.parse(argv)
    for name in ("plan", "resume"):
        if getattr(options, name):
            raise UserError(f"--{name} is no whole run, of which figures could be taken: leave it out")
    # The processes of several devices write to the terminal themselves. A run of the file's own name stays as it is.
    options = dataclasses.replace(options, quiet=True, exp_name=options.exp_name or NAME)
    results = []
    for _ in range(warmup + runs):
        # A run says where its model is and how good it is; here the table does.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            results.append(train(options, given))
        # What Lightning's circles of references still hold on the GPU is not this fit's.
        gc.collect()
    return results[warmup:]


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table: the median of each figure, and least and most where runs differ."""
    names, values = [], []
    for key, (name, unit, form) in COLUMNS.items():
        found = [result[key] / unit for result in results if result.get(key) is not None]
        if not found:
            continue
        middle, low, high = (format(f(found), form) for f in (statistics.median, min, max))
        names.append(name)
        values.append(middle if low == high else f"{middle} ({low} to {high})")
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), values))


def main(argv: list[str] | None = None) -> None:
    parser = opt.Parser("benchmark.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs that count (default 5)")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="runs before them that do not (default 1)")
    parser.add_argument("train", nargs=argparse.REMAINDER, metavar="-- OPTIONS", help="options of train.py")
    arguments = parser.parse_args(argv)
    if arguments.runs < 1 or arguments.warmup < 0:
        parser.error("--runs must be at least 1, and --warmup not negative")
    options = [word for word in arguments.train if word != "--"]
    results = benchmark(options, arguments.runs, arguments.warmup)
    # Of several processes that torchrun has started the first one has the figures.
    if not (last := results[-1]):
        return
    print(f"train.py {' '.join(options)}")
    print(f"{last['device']}, engine {last['engine']}, {', '.join(f'{k} {v}' for k, v in last['versions'].items())}")
    print(f"{arguments.runs} runs after {arguments.warmup}, medians (least to most)\n")
    print(table(results))


if __name__ == "__main__":
    run_command(main)
