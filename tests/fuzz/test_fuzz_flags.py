from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from fuzz_flags import run  # noqa: E402


def test_flags_do_what_they_say_or_are_refused():
    faults, codes = run(25, seed=0)
    assert faults == []
    assert min(codes[0], codes[2]) > 0  # neither accepts all nor refuses all
