"""How good a reconstruction is. Everything is a sum over regions, so a large signal is measured strip by strip."""

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

SSIM_WINDOW = 11


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1]; infinite where the error is zero, or below by rounding."""
    return math.inf if mse <= 0 else -10 * math.log10(mse)


@dataclass
class Mean:
    """A mean over regions, summed in float64."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Tensor, each: int = 1) -> None:
        """Add numbers, or sums of `each` numbers."""
        self.total += values.sum(dtype=torch.float64).item()
        self.count += values.numel() * each

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


@dataclass
class Overlap:
    """Intersection over union of two occupancies, summed over regions."""

    intersection: int = 0
    union: int = 0

    def add(self, found: Tensor, truth: Tensor) -> None:
        """Add a region's occupancies, bool of equal shape."""
        self.intersection += (found & truth).sum().item()
        self.union += (found | truth).sum().item()

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def value(self) -> float:
        """Not a number where both are empty."""
        return self.intersection / self.union if self.union else math.nan


@dataclass
class Seams:
    """Steps of the error across the borders of blocks against steps inside blocks; 1 means no visible seams.

    Args:
        patch: cells of a block along each axis.
    """

    patch: tuple[int, ...]
    border: Mean = field(default_factory=Mean)
    inside: Mean = field(default_factory=Mean)

    def add(self, error: Tensor, start: tuple[int, ...], known: tuple[int, ...] | None = None) -> None:
        """Add a region's error [*space, c] whose first cell is `start`.

        Along each axis its first `known` layers were added before, and only steps from them to the rest are new.
        """
        known, perfect = known or (0,) * len(start), not error.abs().amax()
        for axis, (p, first) in enumerate(zip(self.patch, start, strict=True)):
            cells = _unknown(error, axis, known)
            others = [k for k in range(cells.ndim) if k != axis]
            if perfect:
                layers = cells.new_zeros(cells.shape[axis] - 1)
            else:
                layers = cells.diff(dim=axis).abs_().sum(others, dtype=torch.float64)
            at_border = (torch.arange(len(layers), device=cells.device) + first + max(known[axis] - 1, 0) + 1) % p == 0
            each = math.prod(cells.shape[k] for k in others)
            self.border.add(layers[at_border], each)
            self.inside.add(layers[~at_border], each)

    def __add__(self, other: "Seams") -> "Seams":
        return Seams(self.patch, self.border + other.border, self.inside + other.inside)

    @property
    def value(self) -> float:
        """The ratio of the mean steps; not a number where there is no border or no error inside."""
        return self.border.value / self.inside.value if self.inside.total else math.nan


@dataclass
class Likeness:
    """The correlation of cells that lie side by side: 0 of random numbers whatever their distribution, near 1 of a
    photograph. Of several channels it is that of all, each about its own mean.

    Of its terms: the squared steps, the squares, and the totals by channel of `count` cells.
    """

    steps: Mean = field(default_factory=Mean)
    squares: Mean = field(default_factory=Mean)
    totals: tuple[float, ...] = ()
    count: int = 0

    def add(self, values: Tensor, known: tuple[int, ...] | None = None) -> None:
        """Add a region's values [*space, c], of which along each axis the first `known` layers were added before."""
        known = known or (0,) * (values.ndim - 1)
        for axis in range(len(known)):
            self.steps.add(_unknown(values, axis, known).diff(dim=axis).square_())
        fresh = values[tuple(slice(n, None) for n in known)].flatten(0, -2)
        self.squares.add(fresh.square())
        self._add(tuple(fresh.sum(0, dtype=torch.float64).tolist()), len(fresh))

    def _add(self, totals: tuple[float, ...], count: int) -> None:
        self.totals = tuple(a + b for a, b in itertools.zip_longest(self.totals, totals, fillvalue=0.0))
        self.count += count

    def __add__(self, other: "Likeness") -> "Likeness":
        both = Likeness(self.steps + other.steps, self.squares + other.squares, self.totals, self.count)
        both._add(other.totals, other.count)
        return both

    @property
    def value(self) -> float:
        """Not a number where there is one cell, or all are alike."""
        if not self.steps.total:
            return math.nan
        means = [total / self.count for total in self.totals]
        variance = self.squares.value - sum(mean * mean for mean in means) / len(means)
        return 1 - self.steps.value / (2 * variance) if variance > 0 else math.nan


def _unknown(values: Tensor, axis: int, known: tuple[int, ...]) -> Tensor:
    """Of a region [*space, c] the cells whose steps along an axis are new: `known` layers of each were added before."""
    since = [n if k != axis else max(n - 1, 0) for k, n in enumerate(known)]
    return values[tuple(slice(n, None) for n in since)]


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of every whole window of two images [h, w, c] in [0, 1]: [c, h - 10, w - 10].

    Gaussian window of 11 with sigma 1.5, K1 = 0.01, K2 = 0.03 (Wang et al., 2004). Empty where an image is smaller
    than the window.
    """
    if min(x.shape[:2]) < SSIM_WINDOW:
        return x.new_empty(0)
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-(offset**2) / (2 * 1.5**2))
    weights = (window / window.sum()).tolist()

    def blur(image: Tensor) -> Tensor:
        # As sums of shifted images: torch's convolution of one channel on the CPU copies every window.
        for axis in (1, 2):
            size = image.shape[axis] - SSIM_WINDOW + 1
            total = image.narrow(axis, 0, size) * weights[0]
            for shift, weight in enumerate(weights[1:], 1):
                total.add_(image.narrow(axis, shift, size), alpha=weight)
            image = total
        return image

    x, y = x.movedim(-1, 0), y.movedim(-1, 0)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
