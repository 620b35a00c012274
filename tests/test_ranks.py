"""Several processes: what they say to one another, that they fit the model of one, and what happens if one dies."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Counting
from rank_work import alive, freeze, speak_late

import models.checkpoints
import models.draft
import models.level_fit
import models.miner
import opt
import train
from datasets.image_writer import write_image
from datasets.source import ArraySource, Signal, points
from datasets.streamed_source import StreamedSource
from machine import launch
from machine.memory import Memory, Reading
from machine.ranks import Group, Lost, Ranks, join, launched
from run import setup
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--input_size", "70", "45", "--patch_size", "8", "--num_epochs", "4", "6", "--val_freq", "2", "--quiet"]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 7, 24])
def test_shares_follow_one_another_and_are_equal_but_for_one(n, count):
    everyone, items = [Ranks(number, count) for number in range(count)], list(range(n))
    shares = [ranks.share(items) for ranks in everyone]
    assert list(itertools.chain(*shares)) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    owners = everyone[0].owners(items)
    assert all(item in shares[owner] for item, owner in zip(items, owners, strict=True))


def test_a_process_alone_talks_to_itself():
    ranks, tensor = Ranks(), torch.rand(3)
    before = tensor.clone()
    ranks.exchange([(0, tensor)])
    assert torch.equal(tensor, before)
    assert ranks.gather("x") == ["x"] and ranks.pool("topic", [1.5, 2]) == [1.5, 2]
    assert [ranks.take("a"), ranks.take("a"), ranks.take("b")] == [0, 1, 0]
    with pytest.raises(UserError, match="as it is"), ranks.together():
        raise UserError("as it is")
    with join(cuda=False) as group:
        assert (group.number, group.count, launched()) == (0, 1, False)


def talk() -> dict:
    """In each of two processes: everything that they can say; what the first has heard."""
    heard = {}
    with contextlib.suppress(Lost), join(cuda=False) as group:
        taken = [group.take("number") for _ in range(5)]
        values = torch.full((4,), 0.1 + group.number)
        group.exchange([(1, values[:2]), (0, values[2:2]), (1, values[3:]), (0, values[2:3])])
        group.pool("gain", [group.number + 0.25, 1])
        heard["all"] = group.gather((group.number, taken, values.tolist()))
        heard["levels"] = group.gather(shared_levels(group))
        # The second has said its word before they met, and says no more.
        heard["pool"] = group.pool("gain", [10, 1]) if group.first else None
        try:
            with group.together():
                if group.number == 1:
                    raise UserError("there is no such file")
        except (UserError, SystemExit) as error:
            heard["errors"] = group.gather(repr(error))
        if group.number == 1:
            raise Lost
        heard["lost"] = True
        group.gather("nobody is there")
        heard["lost"] = False
    return heard


def test_a_process_that_gives_no_sign_of_life_is_missed():
    assert launch.run(freeze, 2)


def test_one_that_falls_silent_within_an_exchange_is_missed_and_the_other_comes_to_its_end():
    """As torchrun starts them, whose processes end by way of the interpreter."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    program = "import rank_work, utils; utils.run_command(rank_work.fall_silent)"
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True,
            env={**os.environ, **place, "RANK": number, "LOCAL_RANK": number, "PYTHONPATH": paths},
        )
        for number in "01"
    )  # fmt: skip
    try:
        assert first.communicate(timeout=60)[1] == "error: missed\n" and first.returncode == 2
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def shared_levels(group: Ranks) -> list[tuple[bool, bool, int]]:
    """Of a streamed source whose levels are held, then in files: whether they are held, are those of the array, and
    how many cells this process has read for them."""
    array, found = np.random.default_rng(0).integers(0, 256, (37, 23, 2), np.uint8), []
    for first, room in ((1, 10**6), (2, 0)):
        signal, reader = Signal.of(array, "grey+alpha"), Counting(array)
        source = StreamedSource(reader, array.shape[:-1], signal, "cpu", None, Path(), Reading(128, 2, room))
        source.prepare(5, group)
        wholes = [(points(source.shape, level).level_box(level), level) for level in range(first, 5)]
        same = all(torch.equal(source.read(*whole), ArraySource(array, signal).read(*whole)) for whole in wholes)
        found.append((source.level_bytes > 0, same, sum(region.size for region in reader.asked)))
    return found


def grid_file() -> str:
    z, y, x = np.mgrid[:19, :21, :17]
    np.save("ball.npy", (z - 9) ** 2 + (y - 10) ** 2 + (x - 8) ** 2 < 40)
    return "ball.npy"


def cases() -> dict[str, list[str]]:
    """Runs by name: many chunks a process, rows in files, three axes, one block for two processes, and no block."""
    write_image("black.png", np.zeros((37, 23, 3), np.uint8), "RGB")
    short = ["--patch_size", "8", "--num_epochs", "3", "--val_freq", "2", "--quiet"]
    return {
        "many": [*TINY, "--b_chunks", "4"],
        "files": [*TINY, "--num_epochs", "2", "4", "6", "--b_chunks", "4", "--memory", "64MiB"],
        "gaussian": [*TINY, "--pyr", "gaussian"],
        "zeroed": [*TINY, "--b_chunks", "4", "--pruning", "zero_grad", "--loss_thr", "0.02"],
        "3d": ["--task", "mesh", "--path", grid_file(), *short, "--n_scales", "2"],
        "one_block": ["--input_size", "5", "3", *short],
        "black": ["--path", "black.png", *short],
    }


def several_fits(argvs: list[list[str]]) -> tuple[list[dict], dict]:
    """In each of two processes: fits one after another, a note of how many rounds this one trained, and then a talk."""
    models.level_fit.LEAST["cpu"], models.draft.LARGE = 2, 0
    rounds, train_round = [], models.level_fit.LevelFit.train

    def note(self, copy, window):
        rounds.append(1)
        return train_round(self, copy, window)

    models.level_fit.LevelFit.train = note
    take_in_turns()
    # Chunks have two blocks, whatever they take.
    Memory.fits = lambda *_: True
    results, memory_of = [], setup.memory_of
    for argv in argvs:
        # The first has room for all, and the second so little that nothing is held.
        size = (2**30, 2**16)[int(os.environ["RANK"])]
        setup.memory_of = (lambda *_, size=size: Memory(size, size)) if "--memory" in argv else memory_of
        results.append(train._fit(*opt.parse(argv)))
    Path(f"rounds_{os.environ['RANK']}").write_text(str(len(rounds)))
    return results, talk()


def take_in_turns() -> None:
    """Let both processes take chunks, the second one first, however busy the machine is."""
    take = Group.take

    def in_turn(self, counter):
        while self._store.add(f"take/{counter}", 0) % 2 == self.number:
            time.sleep(0.002)
        return take(self, counter)

    Group.take = in_turn


def dying_fit(options, given) -> dict:
    """In each of two processes: a fit, in which the second is killed after two rounds."""
    models.checkpoints.SECONDS_BETWEEN_COMMITS = 0
    models.level_fit.LEAST["cpu"] = 2
    take_in_turns()
    if os.environ["RANK"] == "1":
        left, train_round = [1, 1], models.level_fit.LevelFit.train

        def die(self, copy, window):
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left.pop()
            return train_round(self, copy, window)

        models.level_fit.LevelFit.train = die
    return train._fit(options, given)


def fit(*argv: str) -> dict:
    return train.train(*opt.parse(list(argv)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ready):
    """Each case from one process and from two; and runs that broke off, with the error they ended in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("ranks"))
        patch.setattr(launch, "multiprocessing", ready)
        argvs = cases()
        ones = {name: fit(*argv, "--exp_name", f"{name}_1") for name, argv in argvs.items()}
        with pytest.MonkeyPatch.context() as inner, pytest.raises(UserError) as killed:
            inner.setattr(train, "_fit", dying_fit)
            fit(*argvs["many"], "--exp_name", "killed", "--devices", "2")
        left = sorted(str(path.relative_to("ckpts/killed")) for path in Path("ckpts/killed").rglob("*.pt"))
        fit("--exp_name", "killed", "--resume", "--quiet")
        with pytest.MonkeyPatch.context() as inner, pytest.raises(RuntimeError, match="power is gone"):
            inner.setattr(models.checkpoints, "SECONDS_BETWEEN_COMMITS", 0)
            step, seen = models.miner.Miner.training_step, []

            def die(self, *batch):
                if len(seen) == 12:
                    raise RuntimeError("power is gone")
                seen.append(1)
                return step(self, *batch)

            inner.setattr(models.miner.Miner, "training_step", die)
            fit(*argvs["many"], "--exp_name", "broken")
        pairs = [[*argv, "--exp_name", f"{name}_2"] for name, argv in argvs.items()]
        twos, heard = launch.run(several_fits, 2, [*pairs, ["--exp_name", "broken", "--resume", "--quiet"]])
        return {
            "ones": ones,
            "twos": dict(zip([*argvs, "broken"], twos, strict=True)),
            "heard": heard,
            "killed": str(killed.value),
            "left": left,
            "rounds": [int(Path(f"rounds_{number}").read_text()) for number in (0, 1)],
            "at": Path.cwd(),
        }


def same_model(folder, a: str, b: str) -> bool:
    first, second = (safetensors.torch.load_file(folder["at"] / f"ckpts/{name}/model.safetensors") for name in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["many", "files", "gaussian", "zeroed", "3d", "one_block", "black"])
def test_two_processes_fit_the_model_of_one_bit_for_bit(folder, name):
    assert same_model(folder, f"{name}_1", f"{name}_2")
    one, two = folder["ones"][name], folder["twos"][name]
    assert (one["devices"], two["devices"]) == (1, 2)
    assert one["levels"] == two["levels"] and one["n_params"] == two["n_params"]
    for key in ("psnr", "ssim", "seam", "psnr_worst_block", "iou"):
        if key in one:
            assert one[key] == pytest.approx(two[key], rel=1e-9, nan_ok=True)


def test_processes_share_counters_tensors_sums_and_errors_and_notice_that_one_ends(folder):
    heard = folder["heard"]
    (first, taken_0, values_0), (second, taken_1, values_1) = heard["all"]
    assert (first, second) == (0, 1) and sorted(taken_0 + taken_1) == list(range(10))
    assert values_0 == values_1 == torch.tensor([1.1, 1.1, 0.1, 1.1]).tolist()
    assert heard["pool"] == [11.25, 2] and heard["lost"]
    assert heard["errors"] == ["UserError('there is no such file')", "SystemExit(2)"]


def test_processes_share_the_making_of_a_source_s_levels(folder):
    first, second = folder["heard"]["levels"]
    assert [levels[:2] for levels in first] == [levels[:2] for levels in second] == [(True, True), (False, True)]
    for (*_, cells), (*_, others) in zip(first, second, strict=True):
        assert cells + others == 37 * 23 and min(cells, others) > 37 * 23 / 3


def test_both_processes_train(folder):
    assert min(folder["rounds"]) > 10


def test_a_run_of_which_a_process_was_killed_says_so_and_is_resumed_by_one(folder):
    assert folder["killed"] == (
        "process 2 of 2 was killed by SIGKILL; to go on: python train.py --exp_name killed --devices 2 --resume"
    )
    assert any(name.startswith("progress/process_1/chunk_") for name in folder["left"])
    assert same_model(folder, "killed", "many_1")


def test_a_run_that_one_process_began_is_resumed_by_two(folder):
    assert same_model(folder, "broken", "many_1")


def test_nothing_but_the_model_is_left(folder):
    for name in ("many_2", "killed", "broken"):
        assert [path.name for path in (folder["at"] / "ckpts" / name).iterdir()] == ["model.safetensors"]


# The processes that it starts run its first lines: each leaves a file when it has trained a round, and commits only
# when interrupted.
DRIVER = """
import sys
from pathlib import Path
import train, utils
if __name__ == "__main__":
    utils.run_command(lambda: train.main(sys.argv[1:]))
import models.checkpoints, models.level_fit
models.checkpoints.SECONDS_BETWEEN_COMMITS = 1e9
train_round = models.level_fit.LevelFit.train
def note(*args):
    found = train_round(*args)
    Path("trained").touch()
    return found
models.level_fit.LevelFit.train = note
"""


def test_ctrl_c_is_one_line_and_leaves_no_process(tmp_path):
    # No block is ever good enough, so it does not end by itself.
    endless = ["--num_epochs", "100000", "--prune_thr", "1e-12"]
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "driver.py", *TINY, *endless, "--devices", "2"]
    process = subprocess.Popen(
        [*command, "--exp_name", "x"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    journal = tmp_path / "ckpts/x/progress/journal.json"
    while process.poll() is None and not (tmp_path / "trained").exists():
        time.sleep(0.02)
    assert journal.exists() and not list(journal.parent.glob("**/chunk_*"))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err == "interrupted; to go on: python train.py --exp_name x --devices 2 --resume\n"
    for _ in range(200):
        if process.pid not in alive().values():
            break
        time.sleep(0.05)
    assert process.pid not in alive().values()
    assert list(journal.parent.glob("**/chunk_*"))


@pytest.mark.parametrize(("argv", "told"), [((), False), (("--resume",), True)])
def test_a_resume_that_dies_before_it_has_saved_anything_is_told_how_to_go_on(tmp_path, monkeypatch, argv, told):
    monkeypatch.chdir(tmp_path)
    journal = Path("ckpts/x/progress/journal.json")
    journal.parent.mkdir(parents=True)
    # An earlier session's, which a run that starts over is about to remove.
    journal.touch()
    os.utime(journal, (0, 0))

    def die(*_):
        raise launch.Died("process 1 of 2 was killed by SIGKILL")

    monkeypatch.setattr(train, "_check_devices", lambda devices: None)
    monkeypatch.setattr(launch, "run", die)
    with pytest.raises(UserError) as caught:
        fit("--exp_name", "x", "--devices", "2", *argv)
    hint = "; to go on: python train.py --exp_name x --devices 2 --resume" if told else ""
    assert str(caught.value) == f"process 1 of 2 was killed by SIGKILL{hint}"


def test_more_devices_than_there_are_is_one_line_that_names_the_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--devices 4096 is more than this machine has"):
        fit(*TINY, "--devices", "4096")
    with pytest.raises(UserError, match="--devices must be at least 1"):
        fit(*TINY, "--devices", "0")
    assert not list(tmp_path.iterdir())


def test_the_cause_is_heard_though_what_follows_from_it_comes_first(tmp_path, ready, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "multiprocessing", ready)
    with pytest.raises(UserError, match="what was wrong"):
        launch.run(speak_late, 2)
