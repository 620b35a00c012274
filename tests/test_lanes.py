"""The streams of a GPU that a fit uses: what waits for what, and what goes first."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_beside import CUDA, slow

from models.lanes import first_lane, giving_way, join, lanes

pytestmark = pytest.mark.gpu


def test_work_on_the_first_lane_follows_what_came_before_and_goes_before_what_comes_after():
    values = slow(torch.zeros(2**22, device=CUDA))
    with first_lane(CUDA):
        assert torch.cuda.current_stream(CUDA) != torch.cuda.default_stream(CUDA)
        slow(values)
    values += 1
    assert (values == 401).all()


def test_lanes_see_what_was_begun_before_them_and_are_seen_after_they_are_joined():
    before = slow(torch.zeros(2**22, device=CUDA))
    with first_lane(CUDA):
        slow(before)
        found = []
        for lane in lanes(CUDA):
            with torch.cuda.stream(lane):
                found.append(slow(before * 2))
        join(CUDA)
        assert all((values == 1000).all() for values in found)


def test_what_gives_way_is_done_in_its_turn():
    for lane in lanes(CUDA):
        with torch.cuda.stream(lane):
            values = slow(torch.zeros(2**22, device=CUDA))
            with giving_way(CUDA):
                slow(values)
            values *= 2
            assert (values == 800).all()


def test_all_that_runs_beside_rounds_goes_before_them():
    first, second = lanes(CUDA)
    with torch.cuda.stream(first), giving_way(CUDA):
        behind = torch.cuda.current_stream(CUDA)
    # A lower number goes first.
    assert first.priority == second.priority < behind.priority


def test_another_thread_sees_what_was_put_on_a_lane_before_the_join():
    with first_lane(CUDA), torch.cuda.stream(lanes(CUDA)[1]):
        values = slow(torch.zeros(2**22, device=CUDA), 2000)
        kept = values.clone()
        join(CUDA)
        with ThreadPoolExecutor(1) as thread:
            assert (thread.submit(kept.cpu).result() == 2000).all()
