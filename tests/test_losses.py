"""The loss of a level, and that a block's part of it is its own."""

import pytest
import torch

from losses import EPSILON, balanced_loss, block_mse


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 1, 1), (1, 3, 5), (4, 2, 7)])
def test_block_mse_is_the_mean_over_channels_and_cells_of_each_block(shape):
    prediction, target = torch.rand(2, *shape, dtype=torch.float64)
    found = block_mse(prediction, target)
    assert found.shape == shape[:1]
    for n in range(shape[0]):
        assert found[n].item() == pytest.approx(((prediction[n] - target[n]) ** 2).mean().item())


def test_the_gradient_is_each_mse_weighted_by_the_constant_1_over_mse():
    mse = torch.tensor([0.0, 1e-9, 1e-4, 2.0], dtype=torch.float64, requires_grad=True)
    balanced_loss(mse).backward()
    torch.testing.assert_close(mse.grad, 1 / (mse.detach() + EPSILON))


def test_a_block_does_not_feel_its_neighbours():
    mse = torch.rand(5, requires_grad=True)
    together = torch.autograd.grad(balanced_loss(mse), mse)[0]
    alone = [torch.autograd.grad(balanced_loss(mse[n : n + 1]), mse)[0][n] for n in range(5)]
    assert torch.equal(together, torch.stack(alone))


def test_the_loss_of_no_blocks_is_zero():
    assert balanced_loss(torch.zeros(0)) == 0
