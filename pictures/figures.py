"""Shapes to turn with the mouse: surfaces side by side, and the blocks of each scale, as plotly figures."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from models.pyramid import Pyramid
from pictures.blocks import CLAY, SURFACE_CELLS, block_edges
from pictures.levels import level_colour
from pictures.surfaces import Bounds, coarse_surface

_SCENE = {
    "aspectmode": "data",
    "xaxis_visible": False,
    "yaxis_visible": False,
    "zaxis_visible": False,
    # y upwards, as meshes mostly are.
    "camera": {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 0.95, "y": 0.7, "z": 1.75}},
}
# Far away in front, above and to the right, as in `render`.
_LIGHT = {"x": 35_000, "y": 80_000, "z": 60_000}
_LIGHTING = {"ambient": 0.45, "diffuse": 0.7, "specular": 0.1, "roughness": 0.8}


def surfaces_figure(surfaces: dict[str, tuple[np.ndarray, np.ndarray]], height: int = 480) -> go.Figure:
    """Surfaces, (vertices [v, 3], faces [f, 3]) by title, side by side."""
    scenes = [{"type": "scene"} for _ in surfaces]
    figure = make_subplots(1, len(surfaces), specs=[scenes], subplot_titles=list(surfaces), horizontal_spacing=0.01)
    for column, (vertices, faces) in enumerate(surfaces.values(), 1):
        figure.add_trace(_surface(vertices, faces), 1, column)
    figure.update_scenes(**_SCENE)
    return figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 30, "b": 0})


def blocks_figure(pyramid: Pyramid, bounds: Bounds, most: int = SURFACE_CELLS, height: int = 640) -> go.Figure:
    """The surface and around it the active blocks of each scale, in a colour of their own; the legend hides a scale.

    Args:
        bounds: (lo, hi) xyz of the outer faces of the grid.
        most: cells of the surface along an axis.
    """
    figure = go.Figure(_surface(*coarse_surface(pyramid, bounds, 0, most)))
    for level in range(pyramid.grid.n_levels):
        edges = block_edges(pyramid, bounds, level)
        # A line through all edges, lifted between one and the next.
        line = np.concatenate([edges, np.full_like(edges[:, :1], np.nan)], 1).reshape(-1, 3)
        name = f"level {level}" + (" (finest)" if level == 0 else "")
        style = {"color": f"rgb{level_colour(level)}", "width": 2 + level}
        figure.add_trace(go.Scatter3d(x=line[:, 0], y=line[:, 1], z=line[:, 2], mode="lines", name=name, line=style))
    figure.update_scenes(**_SCENE)
    return figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 30, "b": 0}, hovermode=False)


def _surface(vertices: np.ndarray, faces: np.ndarray) -> go.Mesh3d:
    x, y, z = vertices.astype(np.float32).T
    i, j, k = faces.astype(np.int32).T
    return go.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, color=f"rgb{CLAY}", lighting=_LIGHTING, lightposition=_LIGHT, hoverinfo="skip"
    )
