"""Provenance of a result: versions of packages, git commit, device."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["device_name", "software"]

PACKAGES = ("hf-elmix", "torch", "transformers", "accelerate", "datasets", "tokenizers", "pytorchcv")

CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def software() -> dict[str, Any]:
    """Versions of Python and packages, git commit, and the number of threads of this process."""
    here = _git("rev-parse", "--show-toplevel") == str(CHECKOUT)  # else the package lies in a repository of others
    status = _git("status", "--porcelain", "--untracked-files=no") if here else None
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": _git("rev-parse", "HEAD") if here else None,
        "dirty": None if status is None else bool(status),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """Name of a GPU, or the kind of device and the machine's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """Output of a git command in the checkout of this file, or None without git or a checkout."""
    command = ["git", "-C", str(CHECKOUT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
