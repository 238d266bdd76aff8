"""The precision of a training: float32, or bfloat16 where the machine multiplies matrices faster in it."""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME

from hf_elmix.disk import read_regular, write_whole

__all__ = ["KINDS", "choose_precision", "has_accelerator", "product_rates"]

WORTH = 2.0  # how much faster products in bfloat16 must be to pay for the conversions around them
SIZES = (256, 384, 768)  # rows, inner width and columns of the products that are timed
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def has_accelerator() -> bool:
    """Whether PyTorch sees a GPU or another accelerator, on which the Trainer then trains."""
    return torch.accelerator.is_available()


def choose_precision(wanted: str, kept: str | None = None) -> tuple[str, str]:
    """The precision to train in, ``fp32`` or ``bf16``, and a sentence about it.

    Args:
        wanted: One of these, or ``auto``: what is faster here.
        kept: The precision of earlier runs of a study, which ``auto`` keeps.
    """
    if wanted != "auto":
        return wanted, f"Precision: {wanted}"
    if kept is not None:
        return kept, f"Precision: {kept}, as in the runs of this folder"
    if has_accelerator():
        able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        if able:
            return "bf16", "Precision: bf16, which this GPU has instructions for"
        return "fp32", "Precision: fp32 (this accelerator might only emulate bfloat16)"
    rates = product_rates()
    found = "bf16" if rates["bf16"] >= WORTH * rates["fp32"] else "fp32"
    shown = " and ".join(f"{rate / 1e9:.3g} GFLOP/s in {kind}" for kind, rate in rates.items())
    return found, f"Precision: {found} (matrix products on this processor: {shown})"


def product_rates(cache: Path | None = None) -> dict[str, float]:
    """Floating-point operations per second of matrix products on the processor, by precision.

    They are measured once for each processor, PyTorch and number of threads, and kept.

    Args:
        cache: The file in which they are kept; by default one in the cache folder of Hugging Face.
    """
    path = cache or Path(HF_HOME, "hf_elmix", "product_rates.json")
    machine = f"{_processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):  # not measured yet, or damaged
        known = dict(json.loads(read_regular(path)))
        return {kind: float(known[machine][kind]) for kind in KINDS}
    rates = {kind: _rate(dtype) for kind, dtype in KINDS.items()}
    with suppress(OSError):  # a cache that cannot be written to costs a fraction of a second each time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**known, machine: rates}).encode())
    return rates


def _rate(dtype: torch.dtype) -> float:
    rows, inner, columns = SIZES
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    torch.mm(left, right)
    best, end = float("inf"), time.perf_counter() + 0.1
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
