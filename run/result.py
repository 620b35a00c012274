"""What a run has come to: the figures of its saved model, and the words for them."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import opt
import utils
from datasets.source import Source
from machine.memory import Limits
from machine.ranks import Ranks
from metrics import psnr
from models import model_file
from models.precision import DTYPES
from options import Options
from options.presets import larger_target
from run.report import quality, shape_distance
from run.session import to_go_on

# A result this many dB below what loss_thr asks for is worth a word on what to change.
FAR_BELOW = 3.0
# A picture whose neighbouring pixels correlate no more than this is noise: those of moon.jpg do by 0.97, of relief8k
# by 0.95. After so many epochs that is worth a word, below what its settings reach (docs/method.md, Random pixels).
AS_RANDOM, ENOUGH_EPOCHS, NOISE_PSNR = 0.25, 50, 44.0


def figures_of(
    path: Path,
    source: Source,
    options: Options,
    limits: Limits,
    group: Ranks,
    fit_peak: int | None,
    source_bytes: int | None,
) -> dict[str, Any]:
    """What the saved file is worth: its quality, its size, what it is made of, and the most memory a process took.

    Args:
        fit_peak: bytes of GPU memory that the fit of this process took, None without a GPU.
        source_bytes: size of the file, or of the folder's files, that was fitted; None of the sample.
    """
    model_bytes = path.stat().st_size
    # In memory a row has all of its digits.
    held = model_bytes * 4 // DTYPES[options.save_dtype].itemsize
    pyramid, about = model_file.load(path, source.device, options.engine, lazy=held > limits.row_bytes)
    cell = "pixel" if options.task == "image" else "voxel"
    measured = quality(pyramid, source, group, limits.strip_cells)
    if options.task == "mesh" and group.first:
        measured |= shape_distance(pyramid, about)
    peaks = utils.peak_host_bytes(), utils.peak_device_bytes(source.device), fit_peak
    host, device, fit = (max(bytes_, key=lambda n: n or 0) for bytes_ in zip(*group.gather(peaks), strict=True))
    return {
        **measured,
        "n_params": pyramid.n_params,
        "model_bytes": model_bytes,
        f"bits_per_{cell}": model_bytes * 8 / math.prod(source.shape),
        "ratio_to_raw": model_bytes / source.raw_bytes,
        "ratio_to_source_file": model_bytes / source_bytes if source_bytes and not source.resized else None,
        "source_format": Path(options.path).suffix[1:].lower() if options.path else None,
        "levels": about["levels"],
        "device": utils.device_name(source.device),
        "devices": group.count,
        "peak_host_bytes": host,
        "peak_device_bytes": device,
        "fit_peak_device_bytes": fit,
        "seed": options.seed,
        "versions": utils.versions(source.device),
        "options": dataclasses.asdict(options),
    }


def say(result: dict[str, Any]) -> None:
    options = opt.from_json(result["options"])
    path = Path("ckpts") / options.exp_name / "model.safetensors"
    cell = "pixel" if options.task == "image" else "voxel"
    params, bits = result["n_params"] / 1e6, result[f"bits_per_{cell}"]
    print(f"{path}: {params:.3f} M parameters, {bits:.2f} bits per {cell}, fitted in {result['fit_s']:.2f} s")
    to_file = result["ratio_to_source_file"]
    beside = f", {to_file:.2f} times the source file" if to_file else ""
    print(f"its bytes: {result['ratio_to_raw']:.2f} times the raw {cell}s{beside}")
    if result["stopped_early"]:
        print(f"stopped by --max_time{to_go_on(options.exp_name, options.devices)}")
    if not result["n_params"] and not result["stopped_early"]:
        if result["psnr"] >= psnr(options.loss_thr):
            print(
                f"no block needed a network: all are within loss_thr ({options.loss_thr:g}) of zero, which is what the "
                "model gives back"
            )
        else:
            print("no network was better than none, so the model is empty: try a lower --lr, or --a nearer to 0.1")
    finest, wanted = result["levels"].get("0"), psnr(options.loss_thr)
    above = finest and result["psnr"] < wanted - FAR_BELOW and finest["converged"] < finest["active"] / 2
    if above and not result["stopped_early"]:
        print(
            f"{finest['active'] - finest['converged']} of {finest['active']} networks of the finest level stayed above "
            f"loss_thr ({wanted:.0f} dB): {_larger(options)}"
        )
        if options.task == "image" and _is_noise(result) and max(options.num_epochs) >= ENOUGH_EPOCHS:
            print(
                "a picture as random as noise needs more parameters than it has numbers, on one level: --patch_size 16 "
                "--n_scales 1 --n_hidden 28 --batch_size 256 --num_epochs 800 --loss_thr 4e-5"
                f"{' --precision tf32' if result['engine'] == 'fused' else ''} (docs/method.md, Random pixels)"
            )
    if options.target_psnr and result["psnr"] < options.target_psnr and not result["stopped_early"]:
        print(_missed(options, result["psnr"]), file=sys.stderr)
    if options.task != "mesh":
        print(f"PSNR : {result['psnr']:.2f} dB", flush=True)
    elif math.isnan(result["iou"]):
        print("IoU : undefined, the grid is empty", flush=True)
    else:
        if result["mean"] == 1:
            print("the grid is full: every cell is occupied, and there is no surface inside it")
        print(f"IoU : {result['iou']:.6f}", flush=True)


def _is_noise(result: dict[str, Any]) -> bool:
    """Whether a picture's pixels are random, and the settings for such pictures would give back more of them."""
    return abs(result["neighbour_correlation"]) < AS_RANDOM and result["psnr"] < NOISE_PSNR - FAR_BELOW


def _missed(o: Options, psnr: float) -> str:
    """What to change where a run has not reached its --target_psnr."""
    larger = None if opt.other_networks(o) else larger_target(o.target_psnr)
    other = f"; where neither is given, --target_psnr {larger:g} chooses larger networks" if larger else ""
    return f"--target_psnr {o.target_psnr:g} was missed by {o.target_psnr - psnr:.2f} dB: {_larger(o)}{other}"


def _larger(o: Options) -> str:
    """What gives networks more to learn with."""
    wider = f"--n_hidden (was {o.n_hidden})" if o.n_layers > 1 else f"--n_layers (was {o.n_layers})"
    return f"raise {wider} or --num_epochs, or take a smaller --patch_size (was {' '.join(map(str, o.patch_size))})"
