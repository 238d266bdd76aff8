from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from fuzz_files import run  # noqa: E402


def test_data_files_are_read_as_written_or_refused():
    counts = run(80, seed=0, commands=60)
    assert min(counts.values()) > 10  # neither refuses all nor reads all
