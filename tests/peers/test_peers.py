"""A small part of other libraries' tests, on ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_peer_tests.py")
PARTS = [
    ("sentence-transformers", "test_trainer_prompts and None", "4 of 4 pass"),
    ("peft", "training_random", "0 of 1 pass; {'CPT"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("library", "only", "line"), PARTS)
def test_a_part_of_another_librarys_tests(tmp_path, library, only, line):
    sources = os.environ.get("HF_ELMIX_PEERS", "")
    if not sources or not Path(sources, library, "tests").is_dir():
        pytest.skip(
            f"no sources of {library}: set HF_ELMIX_PEERS to a folder, and type "
            f"git clone --depth 1 https://github.com/huggingface/{library} $HF_ELMIX_PEERS/{library}"
        )
    command = [sys.executable, SCRIPT, sources, "--libraries", library, "-k", only, "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert line in done.stdout
