"""What import-linter cannot see of the layers: what an import loads, and words that do not belong.

Which part may import which is a contract in pyproject.toml; `lint-imports` checks it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Modules whose import must load neither PyTorch nor Transformers: reading results and printing help need neither.
LIGHT = [
    "hf_elmix.errors",
    "hf_elmix.losses.registry",
    "hf_elmix.losses.schedules",
    "hf_elmix.predictions.cohorts",
    "hf_elmix.predictions.records",
    "hf_elmix.plotting",
    "hf_elmix.diagnostics.calibration",
    "hf_elmix.diagnostics.cohort_plots",
    "hf_elmix.hub.dataset_card",
    "hf_elmix.hub.model_card",
    "glue_runs.__main__",
    "glue_runs.commands",
    *(
        f"hf_elmix.study.{name}"
        for name in ("schema", "spec", "select", "shared_prefixes", "store", "status", "trackers", "progress")
    ),
    *(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for part in ("analysis", "cli")
        for path in sorted((ROOT / "hf_elmix" / part).rglob("*.py"))
        if path.name not in ("__init__.py", "training_flags.py")  # the latter is about the Trainer's arguments
    ),
]

CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"torch", "transformers", "datasets"} & set(sys.modules)
    if heavy:
        sys.exit(f"{name} imports {heavy}")
"""


def test_results_are_read_without_pytorch():
    done = subprocess.run([sys.executable, "-c", CODE, *LIGHT], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_the_library_knows_nothing_of_the_study():
    files = [path for path in (ROOT / "hf_elmix").rglob("*") if path.suffix in (".py", ".pyi", ".html", ".md")]
    files = [path for path in files if "docs" not in path.relative_to(ROOT).parts]
    assert len(files) > 50
    words = {path: path.read_text().lower().replace('extra: str = "glue"', "") for path in files}  # the extra's name
    assert [path for path, text in words.items() if "glue" in text] == []
