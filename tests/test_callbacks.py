"""What a terminal shows of a run."""

import contextlib
import io
import time

from models.flight import Wave
from run import callbacks

WAVE = Wave(0, 0, 1, 1, 50, 200, 50, 400, 0.1, 40.0, 0.03, 1e6)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """Stands for a Miner: what it says is left, and a clock that is set by hand."""

    wave, reports, stopped_early, seconds = WAVE, [], False, 10.0

    def left(self) -> float:
        return 90.0


def begin(run, monkeypatch):
    """A bar that ticks fast, and the terminal that it is drawn on."""
    monkeypatch.setattr(callbacks, "TICK", 0.01)
    bar, terminal = callbacks.Progress(), Terminal()
    with contextlib.redirect_stderr(terminal):
        bar.on_fit_start(None, run)
    return bar, terminal


def shows(terminal, text):
    """Whether it does soon."""
    until = time.monotonic() + 20
    while text not in terminal.getvalue() and time.monotonic() < until:
        time.sleep(0.01)
    return text in terminal.getvalue()


def test_the_bar_counts_down_while_a_round_goes_on(monkeypatch):
    run = Run()
    bar, terminal = begin(run, monkeypatch)
    bar.on_train_batch_end(None, run)
    assert shows(terminal, "01:30 left") and " 10%" in terminal.getvalue()
    run.seconds = 50.0
    assert shows(terminal, "00:50 left") and " 50%" in terminal.getvalue()
    run.seconds = 150.0
    assert shows(terminal, "00:00 left")
    bar.on_fit_end(None, run)
    assert not bar.clock.is_alive() and "100%" in terminal.getvalue()


def test_a_run_that_fails_stops_the_bar_where_it_is(monkeypatch):
    run = Run()
    bar, terminal = begin(run, monkeypatch)
    bar.on_train_batch_end(None, run)
    bar.on_exception(None, run, KeyboardInterrupt())
    assert not bar.clock.is_alive() and "100%" not in terminal.getvalue()
