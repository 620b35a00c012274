"""Look at a fitted model in a browser, on this machine only: tiles and surfaces are decoded as they are asked for."""

import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from datasets import Place, open_source
from datasets.source import Signal, Source
from models import model_file
from models.pyramid import Pyramid
from opt import Parser, memory_bytes
from options import LEAST_MEMORY
from utils import UserError, run_command
from viewer.server import Server
from viewer.site import Site

PORT = 8642
RECORDED = ""
TASKS = {"occupancy": "mesh", "volume": "volume"}


def open_server(model: str | Path, source: str | None = None, port: int = PORT, memory: int | None = None) -> Server:
    """A server of a model's pages, not yet serving.

    Args:
        model: a file that train.py wrote.
        source: what the model was fitted to; "" for the file that it names itself; None to go without.
        port: 0 for any that is free.
        memory: bytes that the source may take of the host, and of the device, before it is read by region; what is
            free decides if None.

    Raises:
        UserError: the model, the source or the port cannot be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pyramid, about = model_file.load(model, device, lazy=True)
    path = Path(model).absolute()
    name = path.parent.name if path.stem == "model" else path.stem
    truth = None if source is None else _open_truth(source, pyramid, about, Place.beside(model, device, memory))
    site = Site(name, pyramid, about, truth)
    return Server(site.answer, port, site.policy)


def _open_truth(path: str, pyramid: Pyramid, about: dict[str, Any], place: Place) -> Source:
    """The source of a model, resized where it was for the fit."""
    signal, task = Signal(**about["signal"]), TASKS.get(about["signal"]["mode"], "image")
    if path == RECORDED:
        options = about.get("options")
        path = options.get("path", RECORDED) if isinstance(options, dict) else RECORDED
        # The built-in sample, an image, has no file.
        if path == RECORDED or not (isinstance(path, str) or (path is None and task == "image")):
            raise UserError("--source: the model does not name its source: give the file")
    shape = pyramid.grid.shape
    try:
        source = open_source(task, path, shape[::-1] if path is None else None, place)
    except UserError as error:
        raise UserError(f"--source {path}: {error}".replace("--path", "--source")) from None
    if task == "image" and source.shape != shape:
        found, wanted = (" x ".join(map(str, size[::-1])) for size in (source.shape, shape))
        print(f"note: {path} is {found}; it is compared at the model's {wanted}", file=sys.stderr)
        # What is held of it, or decoded into a scratch file, goes before the second comes.
        del source
        source = open_source(task, path, shape[::-1], place)
    notes = source.notes
    if source.streamed:
        notes = *notes, f"{path or 'the sample'} is read by region, and averaged down once before the page opens"
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if source.shape != shape or source.signal != signal:
        found, wanted = (_words(*pair) for pair in ((source.shape, source.signal), (shape, signal)))
        raise UserError(f"--source {path}: is {found}, but the model was fitted to {wanted}: give that file")
    return source


def _words(shape: tuple[int, ...], signal: Signal) -> str:
    size = " x ".join(map(str, shape[::-1]))
    return f"{size}, {signal.mode}, {signal.dtype} from {signal.low:g} to {signal.high:g}"


def main(argv: list[str] | None = None) -> None:
    parser = Parser("view.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="ckpts/<exp_name>/model.safetensors")
    parser.add_argument(
        "--source", nargs="?", const=RECORDED, metavar="FILE",
        help="compare with what was fitted: FILE, or without it the file that the model names",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=memory_bytes, metavar="SIZE",
        help="what the source may take of the host and of the GPU, as 1GiB or 800MB; a larger one is read by region "
        "(default: what is free decides)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"0 for any that is free (default {PORT})")
    parser.add_argument("--no_browser", action="store_true", help="open no browser; print the address only")
    arguments = parser.parse_args(argv)
    if arguments.port and not 1024 <= arguments.port < 65536:
        raise UserError(f"--port must be 0 or between 1024 and 65535, not {arguments.port}")
    if arguments.memory is not None and arguments.memory < LEAST_MEMORY:
        raise UserError(f"--memory must be at least 64 MiB, not {arguments.memory} bytes")
    if arguments.memory is not None and arguments.source is None:
        raise UserError("--memory has no meaning without --source: leave it out")
    with (
        open_server(arguments.model, arguments.source, arguments.port, arguments.memory) as server,
        suppress(KeyboardInterrupt),
    ):
        print(f"{server.url} shows {arguments.model}; Ctrl-C ends it", flush=True)
        # Without a desktop Python would start a browser in this terminal.
        if not arguments.no_browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            webbrowser.open(server.url)
        server.serve_forever()


if __name__ == "__main__":
    run_command(main)
