"""A level in training: who gets a network, who is pruned, and that neither chunks nor interruptions change a bit."""

import dataclasses
import functools
import io
import itertools

import numpy as np
import pytest
import torch
from conftest import level_cells, make_source, same, smooth_source

from datasets.grid import Grid
from datasets.residual import LevelTargets
from datasets.source import ArraySource, Signal
from models.encoding import Encoding
from models.engine import Blocks, ReferenceEngine
from models.inheritance import Inheritance
from models.level_fit import LevelFit, cut
from models.precision import DTYPES, PackedRows, rounded
from models.pyramid import Pyramid
from models.recipe import Recipe
from models.rows import Segment
from utils import UserError

RECIPE = Recipe(
    epochs=(12, 12, 12), val_freq=4, batch_size=16, lr=0.03, loss_thr=2e-3, prune_thr=1e-3, n_layers=2, n_hidden=8,
    a=0.1, residual=True, b_chunks=1000, seed=0, coarse_share=0.75,
)  # fmt: skip
GRIDS = [Grid((32, 32), (8, 4), 2), Grid((27, 35), (5, 7), 3), Grid((9, 5, 9), (4, 4, 2), 2)]
grids = pytest.mark.parametrize("grid", GRIDS, ids=["even", "ragged", "3d"])


def make_fit(grid, source=None, level=0, row_bytes=2**30, **recipe):
    source = source or smooth_source(grid.shape, 2)
    recipe = dataclasses.replace(RECIPE, **recipe)
    coarse = None
    if level < grid.n_levels - 1:
        cells = level_cells(grid.level_box(level).stop, source.signal.channels)
        coarse = lambda box: 0.01 * grid.level_box(level).crop(cells, box)  # noqa: E731
    targets = LevelTargets(source, coarse, grid, level, recipe.residual)
    return LevelFit(targets, recipe, Encoding(grid.ndim, 1)(grid.coordinates()), ReferenceEngine(), row_bytes=row_bytes)


def rounds(fit, copy, epoch=0):
    """Every round of a chunk: yields the copy that was trained, its errors, and the copy that is left."""
    while epoch < fit.epochs and len(copy):
        window = range(epoch, min(epoch + fit.recipe.val_freq, fit.epochs))
        trained, mse = fit.train(copy, window)
        copy, epoch = fit.sync(trained, mse), window.stop
        yield trained, mse, copy


def run(fit):
    for chunk in fit.chunks():
        for _ in rounds(fit, fit.start(chunk)):
            pass
    return fit


@grids
@pytest.mark.parametrize("level", [0, 1])
def test_the_blocks_whose_residual_is_large_get_a_network_and_no_other(grid, level):
    fit = make_fit(grid, level=level)
    energy, amplitude = fit.targets.survey()
    wanted = energy > RECIPE.loss_thr * (RECIPE.coarse_share if level else 1)
    assert 0 < wanted.sum() < len(wanted)
    assert fit.target.blocks.tolist() == wanted.nonzero()[:, 0].tolist()
    assert torch.equal(fit.target.amplitude, amplitude[wanted])
    assert fit.target.rows.shape == (wanted.sum(), fit.network.row_size)


@pytest.mark.parametrize(
    ("level", "residual", "output"), [(0, True, "sin"), (1, True, "sin"), (2, True, "sigmoid"), (0, False, "sigmoid")]
)
def test_residuals_end_in_a_sin_and_colours_in_a_sigmoid(level, residual, output):
    assert make_fit(GRIDS[1], level=level, residual=residual).network.output == output


@pytest.mark.parametrize("b_chunks", [1, 2, 3, 7, 1000])
@grids
def test_chunks_cover_the_active_blocks_in_order_within_their_limit(grid, b_chunks):
    fit = make_fit(grid, b_chunks=b_chunks)
    sizes = [len(chunk) for chunk in fit.chunks()]
    assert list(itertools.chain(*fit.chunks())) == list(range(len(fit.target)))
    assert max(sizes) <= b_chunks and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("most", [2, 7, 300])
@pytest.mark.parametrize("spans", [[], [range(1)], [range(3, 8), range(20, 21)], [range(1000)]])
def test_a_cut_covers_ranges_in_order_and_has_a_chunk_for_every_process(spans, most, ranks):
    chunks = cut(spans, most, ranks)
    assert list(itertools.chain(*chunks)) == list(itertools.chain(*spans))
    assert all(0 < len(chunk) <= most for chunk in chunks)
    blocks = sum(map(len, spans))
    assert len(chunks) >= min(ranks, blocks // 2)
    # Enough of them for all to end together, and not so many that the least of them costs.
    if ranks > 1 and blocks == 1000 and most == 300:
        assert [len(chunk) for chunk in chunks] == sorted(map(len, chunks), reverse=True)
        assert 0 < max(len(chunk) for chunk in chunks[-ranks:]) <= blocks / ranks / 8


def test_a_cut_for_several_processes_has_no_chunk_below_the_least_that_keeps_a_device_busy():
    assert [len(chunk) for chunk in cut([range(100)], 1000, ranks=2, least=60)] == [50, 50]
    assert min(len(chunk) for chunk in cut([range(1000)], 1000, ranks=2, least=40)) >= 20


def test_what_is_known_is_a_chunk_of_its_own_and_the_rest_is_cut_around_it():
    fit = make_fit(GRIDS[0], b_chunks=5)
    n = len(fit.target)
    chunks = fit.chunks([range(9, 12), range(2, 4)])
    assert chunks[:2] == [range(2, 4), range(9, 12)]
    assert sorted(itertools.chain(*chunks)) == list(range(n)) and max(map(len, chunks)) <= 5


@grids
@pytest.mark.parametrize("residual", [True, False], ids=["laplacian", "gaussian"])
def test_the_result_does_not_depend_on_the_chunks_bit_for_bit(grid, residual):
    whole = run(make_fit(grid, residual=residual, epochs=(6,) * 3))
    assert (whole.target.rows != 0).any(1).all()
    for b_chunks in (2, 7):
        parts = run(make_fit(grid, residual=residual, epochs=(6,) * 3, b_chunks=b_chunks))
        assert len(parts.chunks()) > 1
        assert torch.equal(parts.target.rows, whole.target.rows)
        assert torch.equal(parts.errors, whole.errors)


@grids
def test_only_blocks_below_the_threshold_are_pruned_and_never_move_again(grid):
    fit = make_fit(grid, epochs=(30,) * 3, val_freq=10, loss_thr=3e-2, prune_thr=2e-2, n_hidden=12)
    frozen, pruned = {}, 0
    for trained, mse, left in rounds(fit, fit.start(fit.chunks()[0])):
        good = mse < fit.recipe.prune_thr
        assert left.index.tolist() == trained.index[~good].tolist()
        frozen |= {n: fit.target.rows[n].clone() for n in trained.index[good].tolist()}
        pruned += int(good.sum())
        assert all(torch.equal(fit.target.rows[n], row) for n, row in frozen.items())
        assert (fit.errors[fit.target.blocks[trained.index]] == mse).all()
    assert len(frozen) == pruned > 0
    assert (fit.errors[fit.target.blocks[list(frozen)]] < fit.recipe.prune_thr).all()


@grids
def test_blocks_with_zeroed_gradients_stay_in_training_and_move_and_the_others_do_not_notice(grid):
    recipe = {"epochs": (30,) * 3, "val_freq": 10, "loss_thr": 3e-2, "prune_thr": 2e-2, "n_hidden": 12}
    usual, fit = make_fit(grid, **recipe), make_fit(grid, zero_grad=True, **recipe)
    done = torch.zeros(len(fit.target), dtype=torch.bool)
    pairs = zip(*(rounds(f, f.start(f.chunks()[0])) for f in (usual, fit)), strict=False)
    for pruned, (trained, mse, left) in pairs:
        going_on = (~done).nonzero()[:, 0]
        assert len(trained) == len(done) and pruned[0].index.tolist() == going_on.tolist()
        assert torch.equal(trained.blocks.rows[going_on], pruned[0].blocks.rows)
        moved = (fit.target.rows != usual.target.rows).any(1)
        assert torch.equal(moved, done)
        done = done | (mse < fit.recipe.prune_thr)
        assert torch.equal(left.blocks.zeroed, done)
    # What was done before the last round that both trained.
    assert moved.any() and len(left) == len(done)


@grids
@pytest.mark.parametrize("level", [0, 1])
def test_the_error_of_a_level_is_that_of_its_decode(grid, level):
    source = smooth_source(grid.shape, 2)
    fit = make_fit(grid, source, level)
    whole = grid.level_box(level)
    truth = source.read(whole, level)
    untrained = fit.mse
    networks, report = run(fit).finish()
    pyramid = Pyramid(grid, Encoding(grid.ndim, 1), 2, ReferenceEngine())
    pyramid.add(level, networks)
    decoded = pyramid.decode(whole, level)
    if level == grid.n_levels - 1:
        assert report.mse == pytest.approx((decoded - truth).square().mean().item(), rel=1e-4)
        assert untrained == pytest.approx(truth.square().mean().item(), rel=1e-5)
    assert report.mse < untrained
    assert (report.level, report.all, report.active) == (level, grid.n_blocks(level), len(networks))
    assert 0 <= report.converged <= report.active
    assert fit.psnr(fit.gain) == pytest.approx(report.psnr) == pytest.approx(-10 * np.log10(report.mse))


@grids
def test_a_level_that_was_not_trained_keeps_no_network(grid):
    fit = make_fit(grid)
    before = fit.mse
    networks, report = fit.finish()
    assert len(networks) == report.active == report.converged == 0
    assert report.mse == before


@grids
def test_networks_that_are_worse_than_none_are_left_out(grid):
    fit = run(make_fit(grid))
    worse = fit.target.blocks[::3]
    fit.errors[worse] = fit.energy[worse] * 2
    kept = [n for n, block in enumerate(fit.target.blocks.tolist()) if fit.errors[block] < fit.energy[block]]
    networks, report = fit.finish()
    assert networks.blocks.tolist() == fit.target.blocks[kept].tolist()
    assert not set(networks.blocks.tolist()) & set(worse.tolist())
    assert torch.equal(networks.rows, fit.target.rows[kept]) and torch.equal(
        networks.amplitude, fit.target.amplitude[kept]
    )
    assert (fit.errors <= fit.energy).all()
    assert report.active == len(kept)


@grids
def test_rows_that_are_not_held_end_in_the_same_level(grid, tmp_path):
    recipe = {"b_chunks": 3, "epochs": (6,) * 3}
    want, report = run(make_fit(grid, **recipe)).finish()
    fit, again = (make_fit(grid, row_bytes=0, **recipe) for _ in range(2))
    segments = []
    for n, chunk in enumerate(fit.chunks()):
        copy, middle = fit.start(chunk), None
        for _, _, left in rounds(fit, copy):
            middle = middle or on_disk([fit.state(chunk), left.index, left.blocks.rows, left.blocks.moments])
        rows = fit.finished_rows(chunk)
        (tmp_path / str(n)).write_bytes(rows[0].numpy().tobytes())
        segments.append([Segment(tmp_path / str(n), 0, len(rows[0]))])
        again.restore(chunk, middle[0])
        for _ in rounds(again, again.copy(*middle[1:], chunk), RECIPE.val_freq):
            pass
        assert torch.equal(again.finished_rows(chunk)[0], rows[0])
        third = make_fit(grid, row_bytes=0, **recipe)
        third.restore(chunk, {key: fit.state(chunk)[key] for key in ("blocks", "errors")})
        assert torch.equal(*(f.errors[f.target.blocks[chunk.start : chunk.stop]] for f in (third, fit)))
    networks, found = fit.finish(PackedRows.of_segments(fit.network, "float32", segments))
    assert found == report and not fit.holds_rows
    index = torch.arange(len(want))
    assert torch.equal(networks.blocks, want.blocks)
    assert all(map(torch.equal, networks.take(index), want.take(index)))


def constant(shape, value):
    array = np.full((*shape, 1), value, np.uint8)
    return ArraySource(array, Signal.of(array, "grey"))


@grids
def test_a_black_image_needs_no_network(grid):
    fit = make_fit(grid, constant(grid.shape, 0), grid.n_levels - 1)
    assert fit.chunks() == [] and len(fit.target) == 0 and fit.mse == 0
    networks, report = fit.finish()
    assert len(networks) == 0 and report.psnr == float("inf")


@grids
def test_a_constant_image_gives_no_networks_where_the_coarser_level_says_it_all(grid):
    source = constant(grid.shape, 200)
    targets = LevelTargets(source, lambda box: torch.full((*box.shape, 1), 200 / 255), grid, 0)
    assert len(LevelFit(targets, RECIPE, Encoding(grid.ndim, 1)(grid.coordinates()), ReferenceEngine()).target) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1)])
def test_a_single_cell_is_fitted(shape):
    grid = Grid(shape, (4,) * len(shape), 1)
    fit = run(make_fit(grid, constant(shape, 180), 0, epochs=(200,), loss_thr=1e-4, prune_thr=1e-4))
    networks, report = fit.finish()
    assert (report.all, report.active) == (1, 1)
    assert report.mse < 1e-3
    pyramid = Pyramid(grid, Encoding(grid.ndim, 1), 1, ReferenceEngine())
    pyramid.add(0, networks)
    assert pyramid.decode().item() == pytest.approx(180 / 255, abs=0.04)


def on_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@functools.cache
def uninterrupted(grid):
    return run(make_fit(grid))


@grids
@pytest.mark.parametrize("after", [1, 2])
def test_a_chunk_taken_up_between_two_rounds_ends_with_the_same_bits(grid, after):
    whole = uninterrupted(grid)
    first = make_fit(grid)
    chunk = first.chunks()[0]
    progress = rounds(first, first.start(chunk))
    for _ in range(after):
        _, _, copy = next(progress)
    state = on_disk([first.state(chunk), copy.index, copy.blocks.rows, copy.blocks.moments])
    second = make_fit(grid)
    second.restore(chunk, state[0])
    for _ in rounds(second, second.copy(*state[1:], chunk), after * RECIPE.val_freq):
        pass
    assert torch.equal(second.target.rows, whole.target.rows)
    assert torch.equal(second.errors, whole.errors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_are_those_of_the_rows_that_the_file_will_hold(dtype):
    fit = run(make_fit(GRIDS[1], save_dtype=dtype))
    rows, blocks = fit.target.rows.detach(), fit.target.blocks
    assert torch.equal(rounded(fit.network, dtype, rows), rows)
    kind = fit.grid.kind_of(blocks, 0)
    real = [fit.grid.real_cells(kind, 0) for kind in range(fit.grid.n_kinds)]
    held = Blocks(rows, fit.targets.gather(blocks), fit.target.amplitude, kind)
    assert torch.equal(fit.engine.errors(fit.network, fit.inputs, held, real), fit.errors[blocks])
    networks, _ = fit.finish()
    assert networks.dtype == dtype and torch.equal(networks.rows, rounded(fit.network, dtype, networks.rows.detach()))


def test_a_coarse_dtype_changes_the_rows_and_float32_does_not():
    # One round, after which the rows are rounded for the first time.
    whole = run(make_fit(GRIDS[0], val_freq=12))
    for dtype in DTYPES:
        rows = run(make_fit(GRIDS[0], val_freq=12, save_dtype=dtype)).target.rows
        assert torch.equal(rows, rounded(whole.network, dtype, whole.target.rows.detach()))
        assert torch.equal(rows, whole.target.rows) == (dtype == "float32")


@grids
def test_a_chunk_whose_blocks_are_all_pruned_is_taken_up(grid):
    fit = make_fit(grid, loss_thr=2e-3)
    chunk = fit.chunks()[0]
    copy = fit.start(chunk)
    done = copy.pruned(torch.ones(len(copy), dtype=torch.bool))
    state = on_disk([done.index, done.blocks.rows, done.blocks.moments])
    assert len(fit.copy(*state, chunk)) == 0


@grids
def test_state_and_restore_carry_a_chunk_over(grid):
    fit, other = (make_fit(grid, b_chunks=3, epochs=(4,) * 3) for _ in range(2))
    run(fit)
    for chunk in fit.chunks():
        other.restore(chunk, on_disk(fit.state(chunk)))
    assert torch.equal(other.target.rows, fit.target.rows) and torch.equal(other.errors, fit.errors)
    assert same(other.finish()[0].rows.detach(), fit.finish()[0].rows.detach())


@pytest.mark.parametrize("chunk", [range(0, 2), range(1, 4)], ids=["the first", "the last"])
def test_a_chunk_of_other_blocks_is_not_taken_up(chunk):
    """As on another machine, whose rounding of the coarser levels leaves a block active or not."""
    fit, other = (make_fit(GRIDS[0]) for _ in range(2))
    state = fit.state(chunk)
    for changed in (other.target.blocks[1:], other.target.blocks[: chunk.stop - 1], other.target.blocks + 1):
        other.target.blocks = changed
        with pytest.raises(UserError, match="--resume"):
            other.restore(chunk, state)
        assert not other.target.rows.any()


def test_the_start_of_a_block_does_not_depend_on_its_chunk():
    fit = make_fit(GRIDS[0])
    whole = fit.start(fit.chunks()[0])
    part = fit.start(fit.chunks()[0][3:5])
    assert torch.equal(part.blocks.rows, whole.blocks.rows[3:5])
    assert torch.equal(part.blocks.targets, whole.blocks.targets[3:5])


def test_seeds_give_different_networks():
    source = make_source((16, 16))
    grid = Grid((16, 16), (8, 8), 1)
    rows = [run(make_fit(grid, source, seed=seed)).target.rows for seed in (0, 1)]
    assert not torch.equal(*rows)


def test_a_block_whose_error_is_no_number_is_left_out_and_not_taken_for_the_level():
    fit = run(make_fit(GRIDS[0]))
    fit.errors[fit.target.blocks[0]] = torch.nan
    lost = fit.target.blocks[0].item()
    networks, report = fit.finish()
    assert lost not in networks.blocks.tolist()
    assert report.mse <= fit.mse < float("inf")


@grids
@pytest.mark.parametrize("way", ["none", "paper", "inherit", "exact"])
def test_where_a_block_begins_does_not_depend_on_its_chunk_whatever_it_inherits(grid, way):
    coarse = run(make_fit(grid, level=1, epochs=(2,) * 3))
    starts = {}
    for b_chunks in (1000, 2):
        fit = make_fit(grid, solve_start=True, b_chunks=b_chunks)
        if way != "none":
            fit.inheritance = Inheritance(way, coarse.target, grid, 0, Encoding(grid.ndim, 1))
        starts[b_chunks] = torch.cat([fit.start(chunk).blocks.rows for chunk in fit.chunks()])
    assert torch.equal(starts[2], starts[1000])


@grids
def test_a_start_in_closed_form_is_nearer_than_a_random_one(grid):
    start = {}
    for solve in (False, True):
        fit = make_fit(grid, solve_start=solve)
        copy = fit.start(fit.chunks()[0])
        start[solve] = fit.engine.errors(fit.network, fit.inputs, copy.blocks, fit._real)
    assert (start[True] < start[False]).all()


def test_without_amplitude_every_output_has_scale_one():
    assert (make_fit(GRIDS[0], use_amplitude=False).target.amplitude == 1).all()
