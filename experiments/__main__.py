"""Measure a table: python -m experiments TABLE [--stand_ins FOLDER] [--jobs N]; `show` prints what was measured before

Each row is written to results/<table>.jsonl as it comes, and the tables are printed as Markdown at the end.
docs/measurements.md is what `python -m experiments show` printed.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

import opt
from experiments import claims, curve, noise, results, rows, times, tried
from utils import UserError, run_command

TABLES = {
    "results": results.results,
    "claims": claims.claims,
    "meshes": claims.meshes,
    "noise": noise.random_pixel_rows,
    "sharing": tried.sharing,
    "tried": tried.tried,
    "targets": curve.targets,
    "curve": curve.curve,
    "times": times.times,
}
HEAD = """# Measurements

What `python -m experiments show` printed of the runs that [experiments.md](experiments.md) speaks of, row by row. A row
with seconds had the machine to itself; the others ran beside one another, and their times do not count. `networks`:
how many there are of all blocks of all levels, and how many of them ended below `loss_thr`. `GPU (MiB)`: the most that
torch's allocator had handed out in the whole run, which also measures its model; `GPU, fit (MiB)`: until the fit ended,
of rows that have it. The program's version comes with a hash of its files.
"""


def main(argv: list[str] | None = None) -> None:
    parser = opt.Parser("python -m experiments", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("tables", nargs="+", choices=[*TABLES, "show"], metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="rows whose name holds one of these")
    parser.add_argument("--stand_ins", type=Path, metavar="FOLDER", help="pictures for where the originals are not")
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="default: results; with --tiny results/tiny")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time; times count only with 1")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="no row begins after this long")
    parser.add_argument("--tiny", action="store_true", help="a few cells and epochs of each row, to try it out")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    if arguments.stand_ins and not arguments.stand_ins.is_dir():
        parser.error(f"--stand_ins {arguments.stand_ins}: no such folder: give one that holds the pictures")
    folder = arguments.folder = arguments.folder or Path("results", *["tiny"] * arguments.tiny)
    names = [name for name in arguments.tables if name != "show"]
    if "show" in arguments.tables:
        usual = parser.parse_args(["show"])
        for option in ("only", "stand_ins", "jobs", "seconds"):
            if getattr(arguments, option) != getattr(usual, option):
                parser.error(f"--{option} is for measuring, and show measures nothing: leave it out")
        show(names, folder, arguments.tiny)
    else:
        _measure(parser, names, arguments)
        for name in names:
            print(section(name, rows.read(folder, name, arguments.tiny), folder))


def _measure(parser: opt.Parser, names: list[str], arguments) -> None:
    deadline, folder, wanted = time.time() + arguments.seconds, arguments.folder, {}
    for name in names:
        table = [replace(row, place=n) for n, row in enumerate(TABLES[name](folder, arguments.stand_ins))]
        if not table:
            raise UserError(f"{name}: nothing to measure without its pictures: give --stand_ins a folder with them")
        wanted[name] = [row for row in table if _wanted(row.name, arguments.only)]
    if arguments.only and not any(wanted.values()):
        parser.error(f"--only {' '.join(arguments.only)}: no row of {', '.join(names)} has that in its name")
    every = [row for found in wanted.values() for row in found]
    measured = rows.run_rows(every, folder, arguments.jobs, deadline, arguments.tiny)
    if "times" in names and not arguments.tiny:
        times.draw(rows.read(folder, "times"), folder / "times.png")
    if "curve" in names and not arguments.only:
        front = curve.again(folder, arguments.stand_ins, [row for row in measured if row["table"] == "curve"])
        rows.run_rows(front, folder, 1, deadline, arguments.tiny)
        if not arguments.tiny:
            curve.draw(rows.read(folder, "curve"), folder / "curve.png")


def _wanted(name: str, only: list[str] | None) -> bool:
    return not only or any(words in name for words in only)


def show(names: list[str], folder: Path, tiny: bool = False) -> None:
    """Print the tables that were measured before, all of them under a heading where none is named; or of tiny runs.

    Raises:
        UserError: there is nothing to show of a table that is named, or of any.
    """
    found = {name: rows.read(folder, name, tiny) for name in names or TABLES}
    if missing := [name for name, measured in found.items() if not measured and (names or not any(found.values()))]:
        raise UserError(f"{folder}: holds no rows of {', '.join(missing)}: measure them first, or give their --folder")
    texts = [section(name, measured, folder) for name, measured in found.items() if measured]
    print("\n\n".join(texts if names else [HEAD.rstrip(), *texts]))


def section(table: str, found: list[dict], folder: Path) -> str:
    """What was measured of a table as Markdown, under a heading that says on what and by which state of the program."""
    if not found:
        return f"## {table}\n\nNothing was measured."
    where, found = rows.states(found)
    parts = [f"## {table}", where]
    if found[0].get("tiny"):
        parts.append("Of a few cells and epochs, to try the rows out: no measurement.")
    if table == "curve":
        for what in dict.fromkeys(row["group"].split(": ")[-2] for row in found):
            of_it = [row for row in found if row["group"].split(": ")[-2] == what]
            parts += [f"### Least that reaches a target: {what}", curve.winners(of_it)]
        found = [*curve.pareto([row for row in found if "sweep" in row["group"]], "n_params"),
                 *(row for row in found if "sweep" not in row["group"])]  # fmt: skip
    parts.append(rows.markdown(found))
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_command(main)
