"""The GPU engine: a launch of models/engine/kernels.py for each verb.

Times in this file: one H200, 200 steps of 8192 blocks with 16 inputs, hidden 20, 3 layers, 3 channels, batch 256, sin
output, RAdam, bfloat16, unless said.
"""

import dataclasses
import functools
import os

import torch
import triton.language as tl
from torch import Tensor

from models.engine import kernels
from models.engine.compose import compose
from models.engine.contract import Blocks, Round, Window, joined
from models.lanes import giving_way, made_once
from models.network import Network
from models.optimizers import BETA_2, TORCH, optimizer_class, step_coefficients
from utils import UserError

# Whether triton runs its kernels as numpy on the CPU: it decides when this file is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Tile x warps at 168 registers: 64 x 4 takes 43.1 ms, 128 x 4 52.9, 32 x 2 51.9, 64 x 2 63.6, 32 x 4 (128) 67.7.
TILE = 64
WARPS = 4
# At 128, 160, 168, 200 registers: 47.2, 43.9, 43.1, 48.6 ms; the last but one is what three programs on a
# multiprocessor leave each. Networks of more padded weights than this take all 255: 5 layers of 28 take 82 ms so and 99
# at 168, but 4 layers of 20 take 63 ms so and 61 at 168.
REGISTERS = 168
FEW_WEIGHTS = 3072
# Triton's own fetching ahead (num_stages) holds everything twice: 66 against 53 ms, before it was done by hand.
LAUNCH = {"num_warps": WARPS, "num_stages": 1, "enable_fp_fusion": True}
# Above this compiling takes minutes and most of a network lives in spilled registers.
MOST_WEIGHTS = 16384


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a block's row falls into the padded matrices [K, N] of the kernels.

    A first layer of more than 64 inputs is cut along them into chunks, each a matrix; every other layer is one.
    """

    network: Network

    @property
    def chunk(self) -> int:
        """K of the first layer's matrices."""
        return 32 if self.network.n_in > 64 else _padded(self.network.n_in)

    @property
    def chunks(self) -> int:
        return -(-self.network.n_in // self.chunk)

    @functools.cached_property
    def weights(self) -> int:
        """Elements of all padded matrices."""
        return sum(k * n for k, n in zip(self.constants["KS"], self.constants["NS"], strict=True))

    @functools.cached_property
    def constants(self) -> dict:
        """What the kernels are compiled for. Of each matrix: where it begins in a row, its rows (the biases counted,
        where they fit) and columns, its padded sizes and its layer. Of each layer: where its biases begin, or -1 if
        they are in the matrix, and where its a is, or -1.
        """
        network, found = self.network, {}
        for name in ("FIRST", "ROWS", "COLS", "KS", "NS", "LAYER", "BIAS", "A_AT"):
            found[name] = []
        at = 0
        for j, (n_in, n_out) in enumerate(network.widths):
            last = j == network.n_layers - 1
            k, chunks = (_padded(n_in), 1) if j else (self.chunk, self.chunks)
            room = n_in < k * chunks
            for chunk in range(chunks):
                found["FIRST"].append(at + chunk * k * n_out)
                found["ROWS"].append(min(k, n_in + room - chunk * k))
                found["COLS"].append(n_out)
                found["KS"].append(k)
                found["NS"].append(_padded(n_out))
                found["LAYER"].append(j)
            found["BIAS"].append(-1 if room else at + n_in * n_out)
            at += (n_in + 1) * n_out
            has_a = not last or network.output == "sin"
            found["A_AT"].append(at if has_a else -1)
            at += has_a
        sizes = {"ROW": at, "CHUNKS": self.chunks, "CHANNELS": network.n_out, "SIN": network.output == "sin"}
        return {name: tuple(values) for name, values in found.items()} | sizes

    def table(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Inputs [in, p] as the kernels read them, [p, chunks * K], with a feature of ones where there is room."""
        n_in, p = inputs.shape
        found = inputs.new_zeros(p, self.chunks * self.chunk, dtype=dtype)
        found[:, :n_in] = inputs.T
        found[:, n_in : n_in + 1] = 1
        return found


def _padded(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


class FusedEngine:
    """Trains and evaluates the blocks of a level on a GPU, a launch each. The verbs are those of ReferenceEngine.

    Args:
        optimizer: "radam" or "adam".
        beta2: decay of its second moment.
        precision: of a product's operands in training: "bfloat16", "tf32" or "float32"; sums are float32, as are
            weights and moments. Evaluation takes tf32 instead of bfloat16, which costs it a tenth of its speed.
    """

    name = "fused"

    def __init__(self, optimizer: str = "radam", precision: str = "bfloat16", beta2: float = BETA_2):
        if precision not in ("bfloat16", "tf32", "float32"):
            raise ValueError(f"precision must be 'bfloat16', 'tf32' or 'float32', not {precision!r}")
        self.optimizer, self.precision, self.beta2 = optimizer, precision, beta2

    def train(self, network: Network, inputs: Tensor, blocks: Blocks, round_: Round) -> Blocks:
        """The blocks after one more round; those given stay as they are.

        Args:
            inputs: [in, p], the encoded cells of a block.
            blocks: of any kinds.

        Raises:
            UserError: if `refusal` has a reason.
        """
        plan = self._plan(network, blocks.rows.device, zero_grad=blocks.zeroed is not None)
        if not len(blocks) or not round_.lr:
            return blocks
        rows = blocks.rows.detach().clone()
        state = blocks.moments["state"][0] if blocks.moments else None
        moments = [state[name].clone() if state else torch.zeros_like(rows) for name in ("exp_avg", "exp_avg_sq")]
        done = int(state["step"]) if state else 0
        settings = (self.optimizer, self.beta2, round_.start_lr)
        group = blocks.moments["param_groups"][0] if blocks.moments else _fresh_group(*settings)
        betas, eps = group["betas"], group["eps"]
        coefficients = _coefficients(self.optimizer, done, tuple(round_.lr), tuple(betas), eps, rows.device)
        cells, counts = round_.table
        dtype, arithmetic = _arithmetic(self.precision, rows.device)
        few = plan.weights <= FEW_WEIGHTS
        given = (
            _table(plan, inputs, dtype),
            blocks.targets.contiguous(),
            blocks.amplitude.contiguous(),
            blocks.kind.int(),
            cells,
            counts,
            coefficients,
        )
        with giving_way(rows.device):
            kernels.train[(len(rows),)](
                rows,
                *moments,
                *given,
                len(round_.lr),
                cells.shape[2],
                blocks.targets.shape[2],
                **plan.constants,
                **arithmetic,
                APART=plan.chunks if plan.chunks > 1 else 0,
                TILE=TILE,
                BETA_1=betas[0],
                BETA_2=betas[1],
                **LAUNCH,
                **({"maxnreg": REGISTERS} if few else {}),
            )
        state = {
            "step": torch.tensor(float(done + len(round_.lr))),
            **dict(zip(("exp_avg", "exp_avg_sq"), moments, strict=True)),
        }
        group = {**group, "lr": round_.lr[-1]}
        return dataclasses.replace(blocks, rows=rows, moments={"state": {0: state}, "param_groups": [group]})

    def errors(self, network: Network, inputs: Tensor, blocks: Blocks, real: list[Tensor]) -> Tensor:
        """Mean square error of each block over its real cells and channels, [n].

        Args:
            real: for each kind of block, int64 [n_real], its real cells.
        """
        mse = blocks.rows.new_empty(len(blocks))
        cells, counts = _real_table(*real)
        self._evaluate(network, inputs, blocks.rows, blocks.amplitude, mse, blocks.targets, blocks.kind, cells, counts)
        return mse

    def predict(self, network: Network, inputs: Tensor, rows: Tensor, amplitude: Tensor) -> Tensor:
        """Evaluate every block at the cells `inputs` [in, p]: rows [n, row], amplitude [n] -> [n, c, p]."""
        found = rows.new_empty(len(rows), network.n_out, inputs.shape[1])
        self._evaluate(network, inputs, rows, amplitude, found)
        return found

    def compose(
        self, window: Window, coarse: Tensor | None, pieces: Tensor, hit: Tensor, replace: bool = False
    ) -> Tensor:
        """Put a region together, [*region, c], as ReferenceEngine.compose has it."""
        return compose(window, coarse, pieces, hit, replace)

    def _evaluate(
        self,
        network: Network,
        inputs: Tensor,
        rows: Tensor,
        amplitude: Tensor,
        out: Tensor,
        targets: Tensor | None = None,
        kind: Tensor | None = None,
        cells: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        plan = self._plan(network, rows.device)
        if not out.numel():
            return
        dtype, arithmetic = _arithmetic("tf32" if self.precision == "bfloat16" else self.precision, rows.device)
        errors = targets is not None
        kernels.evaluate[(len(rows),)](
            rows.detach().contiguous(),
            _table(plan, inputs, dtype),
            targets.contiguous() if errors else None,
            amplitude.contiguous(),
            kind.int() if errors else None,
            cells,
            counts,
            out,
            cells.shape[2] if errors else 0,
            inputs.shape[1],
            **plan.constants,
            **arithmetic,
            TILE=TILE,
            ERRORS=errors,
            **LAUNCH,
        )

    def _plan(self, network: Network, device: torch.device, zero_grad: bool = False) -> Plan:
        interpreted = INTERPRETED and device.type == "cpu"
        if interpreted:
            reason = _misfit(network, self.optimizer, zero_grad)
        else:
            reason = refusal(network, self.optimizer, device, zero_grad)
        if reason:
            raise UserError(f"--engine fused cannot run: {reason}; use --engine auto")
        return plan_of(network)


@functools.cache
def plan_of(network: Network) -> Plan:
    """The plan of a network, made once."""
    return Plan(network)


def refusal(network: Network, optimizer: str, device: torch.device, zero_grad: bool = False) -> str | None:
    """Why the fused engine cannot train this network with this optimizer on this device; None if it can.

    Args:
        zero_grad: whether blocks may come whose gradients are set to zero.
    """
    if device.type != "cuda":
        return f"it needs a GPU, and this is a {device.type}"
    if torch.version.hip:
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or later"
    return _misfit(network, optimizer, zero_grad)


def _misfit(network: Network, optimizer: str, zero_grad: bool) -> str | None:
    if optimizer not in TORCH:
        return f"it has {' and '.join(TORCH)}, not {optimizer}"
    if zero_grad:
        return "it has no --pruning zero_grad"
    if network.omega_0 is not None:
        return "it has no sinusoidal hidden layers"
    if network.output not in ("sigmoid", "sin"):
        return f"it has no {network.output} output"
    weights = plan_of(network).weights
    if weights > MOST_WEIGHTS:
        return f"a network of {weights} weights, widths padded, is more than the {MOST_WEIGHTS} that fit on the chip"
    return None


# What follows is the same for many launches, and takes longer than one: a tensor is known by its identity.


@functools.lru_cache(maxsize=8)
def _fresh_group(optimizer: str, beta2: float, lr: float) -> dict:
    """What torch's optimizer says of its settings before the first step."""
    return optimizer_class(optimizer, beta2)([torch.zeros(1)], lr=lr).state_dict()["param_groups"][0]


@made_once(8)
def _table(plan: Plan, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    return plan.table(inputs, dtype)


@made_once(32)
def _coefficients(
    optimizer: str, done: int, lr: tuple[float, ...], betas: tuple[float, float], eps: float, device: torch.device
) -> Tensor:
    """`step_coefficients` of the steps after `done`, [3, s]."""
    steps = [step_coefficients(optimizer, done + i, rate, betas, eps) for i, rate in enumerate(lr, 1)]
    return torch.tensor(steps).T.contiguous().to(device, non_blocking=True)


@made_once(2)
def _real_table(*real: Tensor) -> tuple[Tensor, Tensor]:
    return joined([cells[None] for cells in real])


def _arithmetic(precision: str, device: torch.device) -> tuple[torch.dtype, dict]:
    """The type of the kernels' operands, and the constants that go with it."""
    bfloat16 = precision == "bfloat16"
    return torch.bfloat16 if bfloat16 else torch.float32, {
        "OPERAND": tl.bfloat16 if bfloat16 else tl.float32,
        "DOT": "tf32" if precision == "tf32" else "ieee",
        "NATIVE": device.type == "cuda",
    }
