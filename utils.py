"""What every room may use: user errors, atomic writes, stateless random numbers, measured memory."""

import contextlib
import ctypes
import errno
import functools
import gc
import hashlib
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

VERSION = "0.1.0"
# The files that a result depends on.
PARTS = (
    "*.py",
    "datasets/*.py",
    "machine/*.py",
    "models/*.py",
    "models/engine/*.py",
    "options/*.py",
    "pictures/*.py",
    "planning/*.py",
    "run/*.py",
)

# Of the packages that OpenCV comes in there is one.
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
# Where the kernel says what the processors are.
CPUS = Path("/proc/cpuinfo")


class UserError(Exception):
    """Something the user can mend. The message is one line that names the flag or file and what to do."""


class Done(Exception):
    """There is nothing to do, which is no error. The message is one line that says why."""


class Interrupted(BaseException):
    """Ctrl-C, at a moment when something is to be said about it. As KeyboardInterrupt it is no Exception, of which
    libraries make others."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main` and turn what the user can mend into one line on stderr and exit code 2."""
    # As Ctrl-C, with all that cleans up behind it.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(130)
    except Done as done:
        print(done)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not (line := complaint(error)):
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


_MEND = {
    None: "free some space, or choose a writable folder",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space, or choose another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or choose a writable folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is where a folder should be: move it away"),
    errno.ENOENT: "put it back, or mend the path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "a folder is where a file should be: move it away, or give another name",
}


def complaint(error: Exception) -> str | None:
    """What the user can do about an error, in one line; None if it is not the user's to mend."""
    line = None
    if isinstance(error, UserError):
        line = str(error)
    elif isinstance(error, OSError):
        line = f"{error.filename or 'a file'}: {error.strerror or error}: {_MEND.get(error.errno, _MEND[None])}"
    elif isinstance(error, ModuleNotFoundError):
        line = f"this needs the package {error.name}: pip install -r requirements.txt"
    elif isinstance(error, torch.OutOfMemoryError):
        line = "the GPU is out of memory: use smaller blocks at once (--b_chunks), a smaller batch or smaller networks"
    elif isinstance(error, MemoryError):
        line = f"not enough memory: use smaller sizes ({error})"
    # What torch says where the memory of the CPU is not enough has no exception of its own.
    elif isinstance(error, RuntimeError) and ("allocate" in str(error) or "Storage size" in str(error)):
        line = f"not enough memory: use smaller sizes ({str(error).splitlines()[0][:100]})"
    return line and " ".join(line.split())


def _umask() -> int:
    """It can only be read by setting it, so once, before there are threads that write."""
    os.umask(mask := os.umask(0))
    return mask


UMASK = _umask()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed into place.

    Without `flush` a crash of the system may leave it cut. The temporary name keeps the ending of `path`, because
    writers choose the format by it. On any error the temporary file is removed and whatever `path` was before stays; an
    OSError names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        if flush:
            to_disk(temporary)
        # Some writers make private files; the result is as readable as any other file of the user.
        temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    except OSError as error:
        # Writing to an open file fails without its name, and nobody knows the temporary one.
        known = error.filename and str(error.filename) != str(temporary)
        name = error.filename if known else str(path)
        raise OSError(error.errno, error.strerror or str(error), name) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def to_disk(path: str | os.PathLike) -> None:
    """Wait until a file, or the names in a folder, would outlast a crash of the system."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_room(folder: str | os.PathLike, size: int) -> None:
    """Raise UserError where a file of `size` bytes is more than the disk of a folder has free."""
    if size > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"{folder}: this takes {size / 1e9:.3g} GB on disk, and {free / 1e9:.3g} GB are free: free some space, "
            "choose another folder, or a smaller size"
        )


def hash_bits(*keys: int | torch.Tensor) -> torch.Tensor:
    """A stateless 64-bit hash of integers, the source of every random number in a run.

    `keys` broadcast against one another; an equal tuple of keys gives an equal hash on every device, whichever
    chunk, process or order asks. Each key is folded in by one round of the SplitMix64 finaliser
    (Steele, Lea and Flood, 2014); int64 multiplication wraps, as the method needs.
    """
    # A number of the CPU joins tensors of any device; to copy it there would wait for what is done there.
    bits = torch.tensor(0, dtype=torch.int64)
    for key in keys:
        bits = _mix(bits * _ODD + torch.as_tensor(key, dtype=torch.int64) + _GOLDEN)
    return bits


def hash_uniform(*keys: int | torch.Tensor) -> torch.Tensor:
    """Float32 uniform in [0, 1), 24 random bits, from `hash_bits` of the same keys."""
    return _shift(hash_bits(*keys), 40).to(torch.float32) * 2.0**-24


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_ODD = _signed(0xD1342543DE82EF95)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Logical right shift: torch shifts int64 arithmetically, so the copies of the sign are masked off."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def process_seconds() -> float:
    """Seconds since this process, or the one that it was started by to do its work, was started itself."""
    parent = multiprocessing.parent_process()
    with open(f"/proc/{parent.pid if parent else 'self'}/stat") as stat, open("/proc/uptime") as uptime:
        started = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return float(uptime.read().split()[0]) - started


def versions(device: torch.device) -> dict[str, str]:
    """Of this program, of Python and of the libraries and the driver that a result on a device depends on."""
    found = {"miner": program(), "python": platform.python_version()}
    for package in ("torch", "pytorch-lightning", "numpy", "triton", *OPENCV):
        with contextlib.suppress(PackageNotFoundError):
            found["opencv" if package in OPENCV else package] = version(package)
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda or f"HIP {torch.version.hip}"
        if driver := _driver():
            found["driver"] = driver
    return found


@functools.cache
def _driver(library: str = "libnvidia-ml.so.1") -> str | None:
    """The version of NVIDIA's driver, as nvidia-smi asks for it; None where it cannot be known."""
    said = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2():
            return None
        failed = nvml.nvmlSystemGetDriverVersion(said, len(said))
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if failed else said.value.decode()


def device_name(device: torch.device) -> str:
    """What a GPU or a CPU calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in CPUS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "cpu"


@functools.cache
def program() -> str:
    """The version of this program, the first digits of a hash of its files, and its commit in a checkout.

    The hash tells changed files apart, and those of a copy without a repository.
    """
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(path for part in PARTS for path in root.glob(part)):
        digest.update(path.read_bytes())
    commit = ""
    if (root / ".git").exists() and (git := shutil.which("git")):
        asked = ["describe", "--always", "--exclude=*", "--dirty=, changed since"]
        said = subprocess.run([git, "-C", root, *asked], capture_output=True, text=True)
        commit = f", commit {said.stdout.strip()}" if said.returncode == 0 else ""
    return f"{VERSION} (files {digest.hexdigest()[:8]}{commit})"


def peak_host_bytes() -> int:
    """The largest resident size this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def host_bytes() -> int:
    """The resident size of this process now, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peaks(device: torch.device) -> None:
    """Let `peak_device_bytes` begin anew."""
    if device.type == "cuda" and torch.cuda.is_initialized():
        # What an earlier run of this process has left in circles is not this one's.
        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)


def peak_device_bytes(device: torch.device) -> int | None:
    """The most memory torch's allocator has held on `device`, in bytes; None without a GPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def jsonable(value):
    """`value` with tuples as lists, numpy scalars as Python's, and what is infinite or undefined as None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
