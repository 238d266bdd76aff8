"""A small part of PEFT's tests, on ours; the sources of other libraries are named by HF_ELMIX_PEERS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_peer_tests.py")
SOURCES = Path(os.environ.get("HF_ELMIX_PEERS", ""))  # a folder with a folder of sources for each library


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "only", "line"),
    [
        ("sentence-transformers", "test_trainer_prompts and None", "4 of 4 pass"),
        ("peft", "training_random", "0 of 1 pass; {'CPT"),
    ],
)
def test_a_part_of_another_librarys_tests(tmp_path, library, only, line):
    sources = SOURCES / library
    if not os.environ.get("HF_ELMIX_PEERS") or not (sources / "tests").is_dir():
        pytest.skip(f"no sources of {library}; set HF_ELMIX_PEERS to a folder that has them")
    command = [sys.executable, SCRIPT, f"--{library}", sources, "-k", only, "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert line in done.stdout
