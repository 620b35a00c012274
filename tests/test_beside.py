"""Work beside other work on a GPU: it sees what came before it, and is done, and safe, when it is taken."""

import pytest
import torch

from datasets.beside import Beside

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


def slow(tensor, steps=200):
    for _ in range(steps):
        tensor += 1
    return tensor


def test_it_sees_what_was_begun_before_and_is_done_when_it_is_taken():
    beside, before = Beside(CUDA), torch.zeros(2**22, device=CUDA)
    slow(before)
    begun = beside.begin(lambda: slow(before * 2))
    assert (beside.take(begun) == 600).all()


def test_memory_that_is_let_go_of_is_not_used_again_before_its_last_reader_is_done():
    beside, ends = Beside(CUDA), []
    begun = beside.begin(lambda: torch.full((2**22,), 0.0, device=CUDA))
    for n in range(1, 20):
        found = beside.take(begun)
        total = slow(torch.zeros_like(found)) + found
        del found
        begun = beside.begin(lambda n=n: torch.full((2**22,), float(n), device=CUDA))
        ends.append([total.amin(), total.amax()])
    assert [(low.item(), high.item()) for low, high in ends] == [(200.0 + n, 200.0 + n) for n in range(19)]


def test_an_error_comes_out_where_the_work_is_taken_and_the_next_work_is_done():
    beside = Beside(CUDA)
    failed, done = beside.begin(lambda: torch.ones(2)[5]), beside.begin(lambda: torch.ones(2, device=CUDA))
    with pytest.raises(IndexError):
        beside.take(failed)
    assert beside.take(done).sum() == 2
