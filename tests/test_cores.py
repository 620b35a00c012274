"""Work in threads: results in order, errors to the caller, each thread with torch of its own."""

import threading
import time

import pytest
import torch

from machine.cores import CORES, in_threads

TINY = 1e-30


def test_no_parts_are_no_work():
    assert in_threads(str, []) == []


def test_results_come_in_the_order_of_the_parts():
    assert in_threads(lambda n: n * n, range(100)) == [n * n for n in range(100)]


def test_each_thread_runs_torch_on_its_own_and_there_is_one_for_each_core():
    met = threading.Barrier(CORES)

    def look(_):
        met.wait(10)
        return threading.get_ident(), torch.get_num_threads()

    names, threads = zip(*in_threads(look, range(CORES)), strict=True)
    assert len(set(names)) == CORES and threading.get_ident() not in names and set(threads) == {1}


@pytest.mark.parametrize("flush", [False, True])
def test_numbers_too_small_to_be_normal_become_zero_where_that_is_asked_for(flush):
    if flush and not torch.set_flush_denormal(False):
        pytest.skip("this CPU cannot")
    found = in_threads(lambda n: (torch.tensor([TINY]) * 1e-12).double().item(), range(4), flush)
    assert all((value == 0) == flush for value in found)


def test_an_error_reaches_the_caller_and_what_has_not_begun_is_left():
    begun = []

    def fail(n):
        begun.append(n)
        if n == 0:
            raise OSError("the disk is gone")
        time.sleep(0.01)

    with pytest.raises(OSError, match="the disk is gone"):
        in_threads(fail, range(100 * CORES))
    assert len(begun) < 100 * CORES
