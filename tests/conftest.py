"""Fixtures shared by all tests: small models and rows, the generated GLUE, and the real rows where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Nothing here may reach a network; children that need the local Hub set their own endpoint.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each processor: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

HUB = Path(os.environ.get("HF_ELMIX_HUB", Path(__file__).parents[2] / "shared" / "hub"))


@pytest.fixture(scope="session")
def hub() -> Path:
    """Folder with real GLUE rows and the local Hub server."""
    if not (HUB / "serve.py").is_file():
        pytest.skip(f"no real GLUE rows at {HUB}; set HF_ELMIX_HUB to a folder that has them")
    return HUB
