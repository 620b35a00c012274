"""The specification: bmm, autograd and a torch optimizer. Any device, any optimizer.

Tensors are features first, cells last: [n, features, b]. The first layer then is one large product, as all blocks of a
kind see the same cells, and every other is a bmm whose long axis is contiguous.

Blocks go through a whole round in tiles; a block's result does not depend on its tile. On the CPU a tile fits the
cache and has a core to itself.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from datasets.grid import is_zero, up
from losses import balanced_loss, block_mse
from machine.cores import CORES, TILE_VALUES, in_threads
from models.engine.contract import Blocks, Round, Window
from models.network import COLOUR, Layer, Network
from models.optimizers import BETA_2, map_rows, optimizer_class

# Floats of the widest activation of a tile: what fits the second-level cache of a core, and what fills a GPU.
CPU_TILE = 64 * 20 * 256
GPU_TILE = 2**24
# Twice the longest vector of a CPU, in floats: torch's vector loops take two at a time.
WHOLE_VECTORS = 32

# exp(-x^2 / 2a^2) = 2^(-u^2) with u = x * GAUSS / a.
GAUSS = 0.8493218002880191
LN_4 = 1.3862943611198906


class Gaussian(torch.autograd.Function):
    """h = 2^(-u^2), with its derivative -2 ln(2) u h.

    exp2 and not exp: on the CPU torch's exp takes a slow path where the result underflows, which is most of the
    plane here; measured 0.10 ms against 3.3 ms for 64 x 20 x 256 values.
    """

    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        h = torch.addcmul(u.new_zeros(()), u, u, value=-1).exp2_()
        ctx.save_for_backward(u, h)
        return h

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        u, h = ctx.saved_tensors
        return (grad * h).mul_(u).mul_(-LN_4)


def forward(network: Network, rows: Tensor, amplitude: Tensor, x: Tensor) -> Tensor:
    """Evaluate every block at encoded cells, the same x [in, b] or its own [n, in, b]: rows [n, row], amplitude [n] ->
    [n, c, b].

    A block alone gives the bits that it gives in company, if b is a multiple of WHOLE_VECTORS: a product of one matrix
    takes another path than one of many, so a single block is doubled, and the ends of arrays are rounded otherwise
    than their vectors.
    """
    if len(rows) == 1:
        return forward(network, rows.expand(2, -1), amplitude.expand(2), x)[:1]
    *hidden, last = network.unpack(rows)
    u = _affine(*_scaled(last, 1 if last.a is None else last.a), features(network, hidden, x))
    if network.output == COLOUR:
        return u.sigmoid()
    shape = {"sin": torch.sin, "tanh": torch.tanh, "linear": lambda u: u}[network.output]
    return shape(u) * amplitude[:, None, None]


def features(network: Network, hidden: list[Layer], x: Tensor) -> Tensor:
    """What hidden layers give the output layer at cells x [in, b] -> [n, hidden, b]; x itself if there are none."""
    for layer in hidden:
        u = _affine(*_scaled(layer, network.omega_0 or GAUSS / layer.a), x)
        x = Gaussian.apply(u) if network.omega_0 is None else u.sin()
    return x


def _scaled(layer: Layer, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Weights and biases times a number, or one a block [n, 1]: cheaper than to scale what they give."""
    return layer.w * (scale[:, :, None] if isinstance(scale, Tensor) else scale), layer.b * scale


def _affine(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """w^T x + b for each block: w [n, in, out], b [n, out], x [in, b] or [n, in, b] -> [n, out, b]."""
    return torch.baddbmm(b[:, :, None], w.mT, x.expand(len(w), -1, -1))


class ReferenceEngine:
    """Trains and evaluates the blocks of a level with plain torch, on the device where their tensors are.

    Args:
        optimizer: a name of `models.optimizers`.
        beta2: decay of the second moment of radam, adam and muon.

    Raises:
        UserError: the optimizer cannot train blocks independently, or is not known.
    """

    name = "reference"
    precision = "float32"

    def __init__(self, optimizer: str = "radam", beta2: float = BETA_2):
        self._name, self._class = optimizer, optimizer_class(optimizer, beta2)

    def train(self, network: Network, inputs: Tensor, blocks: Blocks, round_: Round) -> Blocks:
        """The blocks after one more round; those given stay as they are.

        Args:
            inputs: [in, p], the encoded cells of a block.
            blocks: of any kinds.
        """
        tiles = cut_tiles(network, blocks.kind, [cells.shape[1] for cells in round_.cells])
        if not tiles:
            return blocks
        trained = map_tiles(
            lambda tile: self._train_tile(network, inputs, blocks.select(tile.index), round_, tile.kind), tiles
        )
        rows, moments = zip(*trained, strict=True)
        home = torch.cat([tile.index for tile in tiles]).argsort()
        return dataclasses.replace(
            blocks,
            rows=torch.cat(rows)[home],
            moments=map_rows(lambda *x: torch.cat(x)[home], rows[0].shape, *moments),
        )

    def _optimizer(self, network: Network, rows: Tensor, lr: float) -> Optimizer:
        known = {"network": network} if self._name == "muon" else {}
        return self._class([rows], lr=lr, **known)

    def _train_tile(
        self, network: Network, inputs: Tensor, tile: Blocks, round_: Round, kind: int
    ) -> tuple[Tensor, dict]:
        """The rows and moments of a tile's blocks, all of a kind, after a round."""
        cells = round_.cells[kind]
        steps = (
            (inputs.index_select(1, shown), tile.targets.index_select(2, real))
            for real, shown in zip(cells, whole_vectors(cells), strict=True)
        )
        return self._take_steps(network, tile, steps, round_)

    def _take_steps(
        self, network: Network, tile: Blocks, steps: Iterable[tuple[Tensor, Tensor]], round_: Round
    ) -> tuple[Tensor, dict]:
        """The rows and moments of a tile's blocks after steps of a round.

        Args:
            steps: for each, the cells to see, encoded, [in, b] or a block's own [n, in, b], in whole vectors; and the
                targets of as many of them as are real, [n, c, b_real].
        """
        rows = tile.rows.requires_grad_()
        optimizer = self._optimizer(network, rows, round_.start_lr)
        if tile.moments:
            optimizer.load_state_dict(tile.moments)
        for (x, targets), lr in zip(steps, round_.lr, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            rows.grad = None
            prediction = forward(network, rows, tile.amplitude, x)[:, :, : targets.shape[2]]
            balanced_loss(block_mse(prediction, targets)).backward()
            if tile.zeroed is not None:
                rows.grad.masked_fill_(tile.zeroed[:, None], 0)
            optimizer.step()
        return rows.detach(), optimizer.state_dict()

    def errors(self, network: Network, inputs: Tensor, blocks: Blocks, real: list[Tensor]) -> Tensor:
        """Mean square error of each block over its real cells and channels, [n].

        Args:
            real: for each kind of block, int64 [n_real], its real cells.
        """
        mse = blocks.rows.new_empty(len(blocks))

        @torch.no_grad()
        def measure(tile: Tile) -> None:
            cells = real[tile.kind]
            found = forward(
                network, blocks.rows[tile.index], blocks.amplitude[tile.index], inputs[:, whole_vectors(cells)]
            )
            mse[tile.index] = block_mse(found[:, :, : len(cells)], blocks.targets[tile.index][:, :, cells])

        map_tiles(measure, cut_tiles(network, blocks.kind, [len(cells) for cells in real]))
        return mse

    def predict(self, network: Network, inputs: Tensor, rows: Tensor, amplitude: Tensor) -> Tensor:
        """Evaluate every block at the cells `inputs` [in, p]: rows [n, row], amplitude [n] -> [n, c, p]."""
        p = inputs.shape[1]
        found = rows.new_empty(len(rows), network.n_out, p)
        x = inputs if p % WHOLE_VECTORS == 0 else inputs[:, whole_vectors(torch.arange(p, device=inputs.device))]

        @torch.no_grad()
        def evaluate(tile: Tile) -> None:
            found[tile.index] = forward(network, rows[tile.index], amplitude[tile.index], x)[:, :, :p]

        map_tiles(evaluate, cut_tiles(network, rows.new_zeros(len(rows)), [p]))
        return found

    def compose(
        self, window: Window, coarse: Tensor | None, pieces: Tensor, hit: Tensor, replace: bool = False
    ) -> Tensor:
        """Put a region together, [*region, c]: the coarser level, upsampled, and what blocks of its own add to it.

        Where a block has a piece the sum is clipped to [0, 1].

        Args:
            coarse: [*space, c], the cells `window.parent` of the coarser level; None is zero everywhere.
            pieces: [m, c, p], the predictions of blocks.
            hit: int64 [m], which of `window.blocks`, in raster order, they are of.
            replace: a piece replaces the coarser level instead of adding to it.
        """
        shape = (*window.region.shape, pieces.shape[1])
        values = pieces.new_empty(shape)
        slots = torch.full(window.blocks.shape, -1, device=hit.device)
        slots.view(-1)[hit] = torch.arange(len(hit), device=hit.device)

        @torch.no_grad()
        def put(here: Window) -> None:
            slot = window.blocks.crop(slots, here.blocks).flatten()
            below = None if coarse is None else window.parent.crop(coarse, here.parent)
            zero = not (slot >= 0).any() and (below is None or is_zero(below))
            cells = 0 if zero else _composed(here, below, pieces, slot, replace)
            window.region.crop(values, here.region)[...] = cells

        if values.is_cuda:
            put(window)
        else:
            in_threads(put, window.cut(TILE_VALUES // shape[-1]))
        return values


def _composed(window: Window, coarse: Tensor | None, pieces: Tensor, slot: Tensor, replace: bool) -> Tensor:
    """A tile of what `compose` gives; `slot`, int64 [blocks], says which piece each block has, or -1."""
    grid, region = window.grid, window.region
    if coarse is None:
        values = pieces.new_zeros(*region.shape, pieces.shape[1])
    else:
        values = up(coarse, window.parent, region, window.edge)
    hit = (slot >= 0).nonzero()[:, 0]
    if not len(hit):
        return values
    cells = grid.cells_of(window.blocks)

    def spread(pieces: Tensor) -> Tensor:
        everywhere = pieces.new_zeros(window.blocks.size, *pieces.shape[1:])
        everywhere[hit] = pieces
        return cells.crop(grid.join(everywhere, window.blocks), region)

    if replace:
        values = values * (1 - spread(pieces.new_ones(len(hit), 1, grid.block_cells)))
    return (values + spread(pieces[slot[hit]])).clamp_(0, 1)


def whole_vectors(cells: Tensor) -> Tensor:
    """Cells [..., b] filled up with the last one to whole vectors."""
    missing = -cells.shape[-1] % WHOLE_VECTORS
    return torch.cat([cells, cells[..., -1:].expand(*cells.shape[:-1], missing)], -1) if missing else cells


class Tile(NamedTuple):
    kind: int
    index: Tensor  # int64 [m], which blocks


def widest(network: Network) -> int:
    """Units of the widest activation that a tile has of its own."""
    return max(max(width) for width in network.widths[1:] or network.widths)


def cut_tiles(network: Network, kind: Tensor, cells: list[int]) -> list[Tile]:
    """Cut blocks [n] into tiles of one kind that fit the budget, given the cells a block of each kind is seen at."""
    tiles = []
    for this, b in enumerate(cells):
        index = (kind == this).nonzero()[:, 0]
        if not len(index):
            continue
        count = -(-len(index) * widest(network) * b // (GPU_TILE if kind.is_cuda else CPU_TILE))
        if not kind.is_cuda:
            # Every core gets as many tiles as the others.
            count = -(-count // CORES) * CORES
        tiles += [Tile(this, part) for part in index.tensor_split(min(count, len(index)))]
    return tiles


def map_tiles(function: Callable[[Tile], Any], tiles: list[Tile]) -> list:
    """Map over tiles: on the CPU with a thread for each core."""
    if not tiles or tiles[0].index.is_cuda:
        return [function(tile) for tile in tiles]
    # Products of nearly underflowed activations are denormal.
    return in_threads(function, tiles, flush=True)
