"""Measure a table: python -m experiments results|claims|noise|sharing|tried|curve|times [--stand_ins FOLDER] [--jobs N]

Each row is written to results/<table>.jsonl as it comes, and the tables are printed as Markdown at the end; `show`
prints what was measured before.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

import opt
from experiments import claims, curve, results, rows, times, tried
from utils import run_command

TABLES = {
    "results": results.results,
    "claims": claims.claims,
    "noise": claims.random_pixel_rows,
    "sharing": tried.sharing,
    "tried": tried.tried,
    "curve": curve.curve,
    "times": times.times,
}


def main(argv: list[str] | None = None) -> None:
    parser = opt.Parser("python -m experiments", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("tables", nargs="+", choices=[*TABLES, "show"], metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="rows whose name holds one of these")
    parser.add_argument("--stand_ins", type=Path, metavar="FOLDER", help="pictures for where the originals are not")
    parser.add_argument("--folder", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time; times count only with 1")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="no row begins after this long")
    parser.add_argument("--tiny", action="store_true", help="a few cells and epochs of each row, to try them out")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    if arguments.stand_ins and not arguments.stand_ins.is_dir():
        parser.error(f"--stand_ins {arguments.stand_ins}: no such folder: give one that holds the pictures")
    deadline = time.time() + arguments.seconds
    folder, asked = arguments.folder, arguments.tables
    names = [name for name in asked if name != "show"]
    usual = parser.parse_args(["show"])
    for option in ("only", "stand_ins", "jobs", "seconds", "tiny") if "show" in asked else ():
        if getattr(arguments, option) != getattr(usual, option):
            parser.error(f"--{option} is for measuring, and show measures nothing: leave it out")
    wanted = {}
    for name in names if "show" not in asked else ():
        table = [replace(row, place=n) for n, row in enumerate(TABLES[name](folder, arguments.stand_ins))]
        wanted[name] = [row for row in table if _wanted(row.name, arguments.only)]
    if arguments.only and not any(wanted.values()):
        parser.error(f"--only {' '.join(arguments.only)}: no row of {', '.join(names)} has that in its name")
    for name, found in wanted.items():
        measured = rows.run_rows(found, folder, arguments.jobs, deadline, arguments.tiny)
        if name == "curve" and not arguments.only:
            front = curve.again(folder, arguments.stand_ins, measured)
            rows.run_rows(front, folder, 1, deadline, arguments.tiny)
    for name in names or TABLES:
        _show(name, rows.read(folder, name), folder)


def _wanted(name: str, only: list[str] | None) -> bool:
    return not only or any(words in name for words in only)


def _show(table: str, found: list[dict], folder: Path) -> None:
    if not found:
        return
    device = next((f"{row['device']}, {row['versions']}" for row in found if "device" in row), "")
    print(f"\n## {table}\n\n{device}\n")
    if table == "curve":
        alone = [row for row in found if row["name"].startswith("alone")] or found
        print(f"{curve.winners(found)}\n\nBy time alone on the machine:\n\n{curve.winners(alone)}\n")
        found = [*curve.pareto([row for row in found if "sweep" in row["group"]], "n_params"),
                 *(row for row in found if "sweep" not in row["group"])]  # fmt: skip
    print(rows.markdown(found))
    if table == "times":
        times.draw(found, folder / "times.png")
        print(f"\n{folder / 'times.png'}")


if __name__ == "__main__":
    run_command(main)
