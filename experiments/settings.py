"""What tables have in common: the sizes of the pictures that they name, and how long fits last."""

PICTURES = {"moon": (4096, 2048), "relief8k": (8192, 4096)}
# Four levels, as `train.py` trains the pictures and shapes of the tables.
IMAGE, MESH = (50, 50, 50, 200), (50, 50, 50, 150)


def epochs(usual: tuple[int, ...] = IMAGE, part: float = 1.0) -> str:
    """Options of train.py for a part of the usual epochs."""
    return f"--n_scales {len(usual)} --num_epochs {' '.join(str(round(n * part)) for n in usual)}"
