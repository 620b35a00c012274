"""The still picture of a shape: what is nearest is seen, everything fits, lines are hidden by what is before them."""

import numpy as np
import trimesh

from pictures.render import BACKGROUND, EYE, render

CLAY, RED = (200, 200, 200), (255, 0, 0)
TOWARDS = np.array(EYE) / np.linalg.norm(EYE)


def ball(centre=(0, 0, 0), radius=1.0):
    mesh = trimesh.creation.icosphere(3, radius)
    return np.array(mesh.vertices) + centre, np.array(mesh.faces), CLAY


def reds(picture):
    return ((picture[..., 0] > 200) & (picture[..., 1] < 100)).sum()


def test_nothing_is_an_empty_picture():
    empty = (np.zeros((0, 3)), np.zeros((0, 3), int), CLAY)
    for surfaces, lines in (([], []), ([empty], [(np.zeros((0, 2, 3)), RED)])):
        picture = render(surfaces, lines, 16)
        assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8 and (picture == BACKGROUND).all()


def test_a_ball_is_a_disc_without_holes_that_fills_the_picture():
    picture = render([ball()], side=100)
    seen = (picture != BACKGROUND).any(-1)
    assert abs(seen.sum() - np.pi * 47**2) < 0.03 * np.pi * 47**2
    y, x = np.nonzero(seen)
    assert min(x.min(), y.min()) in (2, 3, 4) and max(x.max(), y.max()) in (95, 96, 97)
    disc = np.hypot(*np.meshgrid(np.arange(100) - 49.5, np.arange(100) - 49.5)) < 44
    assert seen[disc].all()


def test_it_is_lit_from_above():
    picture = render([ball()], side=60).astype(int).sum(-1)
    assert picture[10, 30] > picture[50, 30] + 50


def test_a_line_behind_is_hidden_and_one_before_is_seen():
    across = np.cross(TOWARDS, (0, 1, 0)) * 0.3
    for place, seen in ((3, True), (-3, False)):
        line = np.stack([place * TOWARDS - across, place * TOWARDS + across])[None]
        assert (reds(render([ball()], [(line, RED)], 80)) > 10) == seen


def test_the_nearer_surface_is_seen():
    small = (*ball(3 * TOWARDS, 0.5)[:2], RED)
    large = ball()
    assert reds(render([large, small], side=60)) == reds(render([small, large], side=60)) > 100
    behind = (*ball(-3 * TOWARDS, 0.5)[:2], RED)
    assert reds(render([large, behind], side=60)) == 0


def test_room_keeps_the_view():
    room = np.array([[-4, -4, -4], [4, 4, 4]])
    one, other = render([ball()], side=64, room=room), render([ball()], [(np.full((1, 2, 3), 0.1), RED)], 64, room)
    assert (one == other).mean() > 0.99 and (one != BACKGROUND).any(-1).mean() < 0.2
