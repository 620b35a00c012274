"""How levels are trained: the numbers of a run that the method needs, made of its options once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How levels are trained.

    Args:
        epochs: of each level, finest first: epochs[j] of level j.
        val_freq: epochs between two prunings.
        batch_size: cells of a block that a step sees.
        lr: learning rate the finest level starts with.
        loss_thr: mean square error below which a block is good enough.
        prune_thr: mean square error below which a block stops training, at most loss_thr: the model has as many
            networks as loss_thr asks for, and they go on beyond it. 0 stops none.
        n_layers, n_hidden, a: the networks (models.network); every trainable a starts at `a`.
        residual: Laplacian pyramid if true, else Gaussian.
        b_chunks: most blocks of a chunk.
        seed: of weights and cell order.
        save_dtype: how the file will hold the rows (models.precision).
        output: what networks of a residual end in (models.network).
        omega_0: frequency of sinusoidal hidden layers, None of Gaussian ones.
        use_amplitude: whether a block's output is scaled by its largest residual.
        output_start: the size of the output layer's start, as a part of the usual.
        coarse_lr: the learning rate that coarser levels start with, as a multiple of lr.
        coarse_share: the part of loss_thr above which a block of a coarser level gets a network.
        solve_start: whether the output layer begins in closed form.
        weight_sharing: "none", or the way of models.inheritance.
        zero_grad: whether blocks below prune_thr stay in training with their gradients set to zero.
    """

    epochs: tuple[int, ...]
    val_freq: int
    batch_size: int
    lr: float
    loss_thr: float
    prune_thr: float
    n_layers: int
    n_hidden: int
    a: float
    residual: bool
    b_chunks: int
    seed: int
    save_dtype: str = "float32"
    output: str = "sin"
    omega_0: float | None = None
    use_amplitude: bool = True
    output_start: float = 1.0
    coarse_lr: float = 1.0
    coarse_share: float = 1.0
    solve_start: bool = False
    weight_sharing: str = "none"
    zero_grad: bool = False

    def start_lr(self, level: int) -> float:
        """The learning rate a level starts with."""
        return self.lr * (self.coarse_lr if level else 1)

    def round(self, level: int, epoch: int) -> range:
        """The epochs of a level from one on until blocks are pruned next."""
        return range(epoch, min((epoch // self.val_freq + 1) * self.val_freq, self.epochs[level]))
