"""What processes do in test_ranks.py that need little: each imports this file alone, not all that a fit needs."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import torch

from machine import ranks
from machine.ranks import Lost, join
from utils import UserError


def freeze() -> bool:
    """In each of two processes, of which the second stands still as if its machine were gone: whether the first has
    noticed it."""
    ranks.BEAT, ranks.SILENCE, lost = 0.05, 0.5, True
    with contextlib.suppress(Lost), join(cuda=False) as group:
        _, second = group.gather(os.getpid())
        if group.number == 1:
            os.kill(second, signal.SIGSTOP)
        try:
            group.gather("nobody answers")
            lost = False
        finally:
            os.kill(second, signal.SIGCONT)
    return lost


def fall_silent() -> None:
    """In each of two processes, of which the second stands still once both have met to exchange a tensor."""
    ranks.BEAT, ranks.SILENCE = 0.05, 0.5
    with join(cuda=False) as group:
        group.gather("all are there")
        if group.number == 1:
            torch.distributed.broadcast = lambda *_, **__: os.kill(os.getpid(), signal.SIGSTOP)
        try:
            group.exchange([(1, torch.zeros(2**20))])
        except Lost:
            raise UserError("missed") from None


def alive() -> dict[int, int]:
    """The processes that are, but for those that wait to be buried: {process: its group}."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if state != "Z":
                found[int(path.parent.name)] = int(group)
    return found


def speak_late() -> None:
    """In each of two processes, of which the second ends first, because of what the first is about to say."""
    if int(os.environ["RANK"]):
        Path(f"second_{os.getpid()}").touch()
        sys.exit(2)
    while not (found := list(Path().glob("second_*"))) or int(found[0].name.split("_")[1]) in alive():
        time.sleep(0.01)
    raise UserError("what was wrong")
