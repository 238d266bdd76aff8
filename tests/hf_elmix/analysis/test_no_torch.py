"""Reports are made where PyTorch is not installed."""

from __future__ import annotations

import subprocess
import sys


def test_reports_and_the_records_they_read_do_not_import_torch():
    code = (
        "import sys, hf_elmix.analysis.report, hf_elmix.study.store; print({'torch', 'transformers'} & {*sys.modules})"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "set()"
