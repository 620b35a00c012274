"""Start the processes of a run on one machine, look after them, and end them all when one ends badly."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.distributed as dist

from utils import Done, Interrupted, UserError, complaint

# Seconds that the others are given to put their progress on disk when one process has ended.
GRACE = 15


class Died(Exception):
    """A process ended by something that the user cannot mend. The message is the beginning of a line."""


def run(work: Callable[..., Any], count: int, *args: Any) -> Any:
    """Call `work(*args)` in `count` new processes, ranks of torch.distributed; gives what the first returns.

    Args:
        work: a function of a module, so that a new process can import it.

    Raises:
        UserError, Done: what a process raised; of several, what the first said first.
        Died: a process was killed, or failed with an error of its own, which it has printed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the processes have ended.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    ears: list[Connection] = []
    with _terminable():
        try:
            with _environment(count, store.port), _deaf():
                for number in range(count):
                    ear, mouth = context.Pipe(duplex=False)
                    # A daemon, which does not outlive this process's orderly end.
                    process = context.Process(target=_work, args=(number, mouth, work, args), daemon=True)
                    process.start()
                    mouth.close()
                    processes.append(process)
                    ears.append(ear)
            return _listen(processes, ears)
        finally:
            with _deaf():
                _end(processes)


def _listen(processes: list[BaseProcess], ears: list[Connection]) -> Any:
    """What the first process returns; raises what the first of those that failed has to say."""
    results, errors, open_ears = {}, {}, list(ears)
    until = None
    # What follows from another's end is heard before its cause at times, so the cause is waited for.
    while open_ears and all(isinstance(error, Interrupted) for error in errors.values()):
        found = wait(open_ears, until and max(0, until - time.monotonic()))
        if not found:
            break
        for ear in found:
            number = ears.index(ear)
            open_ears.remove(ear)
            _hear(ear, number, results, errors)
        if errors and until is None:
            until = time.monotonic() + GRACE
    if not errors:
        return results[0]
    _end(processes)
    for ear in open_ears:
        _hear(ear, ears.index(ear), results, errors)
    for number, error in errors.items():
        code = processes[number].exitcode
        # A process without a word was killed: by another than this one, or it did not hear of it.
        if error is None and code != -signal.SIGTERM:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise Died(f"process {number + 1} of {len(processes)} {how}")
        # What follows from another's end is not its cause.
        if error is not None and not isinstance(error, Interrupted):
            raise error
    raise KeyboardInterrupt


def _hear(ear: Connection, number: int, results: dict[int, Any], errors: dict[int, Any]) -> None:
    try:
        kind, value = ear.recv()
    except EOFError:
        kind, value = "error", None
    (results if kind == "result" else errors)[number] = value


def _end(processes: list[BaseProcess]) -> None:
    """End the processes that still run: they put their progress on disk, but are not waited for without limit."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    until = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _work(number: int, mouth: Connection, work: Callable[..., Any], args: tuple) -> None:
    """The body of a new process."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(number)
    threading.Thread(target=_follow, daemon=True).start()
    try:
        said = "result", work(*args)
    except SystemExit as end:
        # It leaves the word to the first process.
        said = ("error", Interrupted()) if end.code else ("result", None)
    except BaseException as error:
        said = "error", _portable(number, error)
    try:
        mouth.send(said)
    except BrokenPipeError:
        if number == 0:
            print(said[1], file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by way of the interpreter's end, where what waits for a process that is gone would hang.
    os._exit(said[0] == "error")


def _portable(number: int, error: BaseException) -> BaseException:
    if isinstance(error, UserError | Done | Interrupted):
        return error
    if line := complaint(error):
        return UserError(line)
    traceback.print_exc()
    return Died(f"process {number + 1} failed ({type(error).__name__})")


def _follow() -> None:
    """End with the process that started this one, however it ends."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


@contextlib.contextmanager
def _environment(count: int, port: int) -> Iterator[None]:
    """What torchrun would set, for the processes that begin meanwhile."""
    cores = len(os.sched_getaffinity(0))
    values = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        # Of a lost connection it would give a page of addresses; what is to be said of it is said here.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, cores // count)),
    }
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C, also in processes that begin meanwhile: a terminal sends it to all, and this one ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
