"""The import arrows: who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each module and what it may import of this project. Everything points one way: the order of this table.
ARROWS = {
    "hf_elmix.errors": [],
    "hf_elmix.commands": ["hf_elmix.errors"],
    "hf_elmix.losses.reduction": [],
    "hf_elmix.losses.mixed": ["hf_elmix.losses.reduction"],
    "hf_elmix.losses.alternatives": ["hf_elmix.losses.reduction"],
    "hf_elmix.losses.mahalanobis": ["hf_elmix.losses.reduction"],
    "hf_elmix.losses.linear": ["hf_elmix.losses.mixed", "hf_elmix.losses.reduction"],
    "hf_elmix.schedules": ["hf_elmix.errors"],
    "hf_elmix.objectives": ["hf_elmix.errors", "hf_elmix.schedules"],
    "hf_elmix.spelling": ["hf_elmix.errors", "hf_elmix.schedules", "hf_elmix.objectives"],
    "hf_elmix.arguments": ["hf_elmix.objectives", "hf_elmix.errors", "hf_elmix.schedules", "hf_elmix.spelling"],
    "hf_elmix.callback": ["hf_elmix.objectives", "hf_elmix.arguments", "hf_elmix.errors", "hf_elmix.spelling"],
    "hf_elmix.heads": ["hf_elmix.errors"],
    "hf_elmix.mahalanobis": ["hf_elmix.errors", "hf_elmix.heads", "hf_elmix.losses.mahalanobis"],
    "hf_elmix.trainer": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.losses.mixed",
        "hf_elmix.losses.reduction",
        "hf_elmix.schedules",
        "hf_elmix.callback",
        "hf_elmix.arguments",
        "hf_elmix.heads",
        "hf_elmix.mahalanobis",
    ],
    "hf_elmix.loss_func": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.losses.mixed",
        "hf_elmix.losses.reduction",
        "hf_elmix.callback",
        "hf_elmix.arguments",
        "hf_elmix.heads",
    ],
    "hf_elmix.sft": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.losses.reduction",
        "hf_elmix.schedules",
        "hf_elmix.callback",
        "hf_elmix.arguments",
    ],
    "hf_elmix.cross_encoder": ["hf_elmix.errors", "hf_elmix.loss_func"],
    "hf_elmix.complement": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.heads",
        "hf_elmix.schedules",
        "hf_elmix.trainer",
    ],
    "hf_elmix.lm": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.heads",
        "hf_elmix.losses.linear",
        "hf_elmix.trainer",
    ],
    "hf_elmix.diagnostics.predictions": ["hf_elmix.errors"],
    "hf_elmix.diagnostics.transitions": ["hf_elmix.errors", "hf_elmix.diagnostics.predictions"],
    "hf_elmix.diagnostics.watch": ["hf_elmix.errors", "hf_elmix.heads"],
    "hf_elmix.diagnostics.cohorts": [
        "hf_elmix.errors",
        "hf_elmix.diagnostics.predictions",
        "hf_elmix.diagnostics.transitions",
        "hf_elmix.diagnostics.watch",
    ],
    "hf_elmix.study.spec": ["hf_elmix.errors", "hf_elmix.spelling"],
    "hf_elmix.study.fork": ["hf_elmix.objectives", "hf_elmix.study.spec"],
    "hf_elmix.study.store": ["hf_elmix.errors", "hf_elmix.diagnostics.predictions", "hf_elmix.study.spec"],
    "hf_elmix.study.status": ["hf_elmix.errors", "hf_elmix.study.spec", "hf_elmix.study.store"],
    "hf_elmix.study.trackers": ["hf_elmix.errors", "hf_elmix.study.spec", "hf_elmix.study.store"],
    "hf_elmix.study.keep": ["hf_elmix.study.spec", "hf_elmix.study.store"],
    "hf_elmix.study.checkpoints": ["hf_elmix.study.store"],
    "hf_elmix.study.view": ["hf_elmix.study.spec", "hf_elmix.study.fork"],
    "hf_elmix.study.workers": ["hf_elmix.study.fork"],
    "hf_elmix.study.cluster": [
        "hf_elmix.errors",
        "hf_elmix.study.fork",
        "hf_elmix.study.store",
        "hf_elmix.study.workers",
    ],
    "hf_elmix.study.pause": ["hf_elmix.diagnostics.predictions", "hf_elmix.trainer"],
    "hf_elmix.study.run": [
        "hf_elmix.callback",
        "hf_elmix.complement",
        "hf_elmix.trainer",
        "hf_elmix.diagnostics.cohorts",
        "hf_elmix.diagnostics.predictions",
        "hf_elmix.study.spec",
        "hf_elmix.study.fork",
        "hf_elmix.study.store",
        "hf_elmix.study.checkpoints",
        "hf_elmix.study.workers",
        "hf_elmix.study.pause",
    ],
    "hf_elmix.study.grid": [
        "hf_elmix.errors",
        "hf_elmix.study.spec",
        "hf_elmix.study.fork",
        "hf_elmix.study.store",
        "hf_elmix.study.keep",
        "hf_elmix.study.checkpoints",
        "hf_elmix.study.view",
        "hf_elmix.study.workers",
    ],
    "hf_elmix.diagnostics.flow": ["hf_elmix.diagnostics.predictions", "hf_elmix.diagnostics.transitions"],
    "hf_elmix.analysis.profile": [],
    "hf_elmix.analysis.ranks": ["hf_elmix.errors", "hf_elmix.analysis.profile"],
    "hf_elmix.analysis.tables": ["hf_elmix.errors", "hf_elmix.schedules", "hf_elmix.study.spec"],
    "hf_elmix.analysis.plots": ["hf_elmix.schedules", "hf_elmix.spelling"],
    "hf_elmix.diagnostics.rows": ["hf_elmix.errors", "hf_elmix.heads"],
    "hf_elmix.diagnostics.predict": [
        "hf_elmix.diagnostics.rows",
        "hf_elmix.errors",
        "hf_elmix.heads",
        "hf_elmix.diagnostics.predictions",
    ],
    "hf_elmix.diagnostics.gradients": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.schedules",
        "hf_elmix.spelling",
        "hf_elmix.analysis.plots",
    ],
    "hf_elmix.diagnostics.calibration": ["hf_elmix.errors", "hf_elmix.analysis.plots"],
    "hf_elmix.diagnostics.curvature": [
        "hf_elmix.diagnostics.rows",
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.heads",
        "hf_elmix.schedules",
        "hf_elmix.spelling",
    ],
    "hf_elmix.diagnostics.sharpness": ["hf_elmix.objectives", "hf_elmix.errors", "hf_elmix.diagnostics.curvature"],
    "hf_elmix.diagnostics.escape": [
        "hf_elmix.objectives",
        "hf_elmix.errors",
        "hf_elmix.diagnostics.curvature",
        "hf_elmix.analysis.plots",
    ],
    "hf_elmix.analysis.aside": ["hf_elmix.analysis.ranks", "hf_elmix.analysis.tables"],
    "hf_elmix.analysis.calibrated": [
        "hf_elmix.analysis.tables",
        "hf_elmix.errors",
        "hf_elmix.diagnostics.calibration",
        "hf_elmix.diagnostics.predictions",
        "hf_elmix.analysis.ranks",
    ],
    "hf_elmix.analysis.predicted": [
        "hf_elmix.errors",
        "hf_elmix.study.spec",
        "hf_elmix.diagnostics.predictions",
        "hf_elmix.diagnostics.transitions",
        "hf_elmix.analysis.calibrated",
    ],
    "hf_elmix.analysis.moves": [
        "hf_elmix.analysis.tables",
        "hf_elmix.diagnostics.transitions",
        "hf_elmix.analysis.predicted",
        "hf_elmix.analysis.ranks",
    ],
    "hf_elmix.analysis.results": [
        "hf_elmix.errors",
        "hf_elmix.study.spec",
        "hf_elmix.analysis.aside",
        "hf_elmix.analysis.predicted",
        "hf_elmix.analysis.profile",
        "hf_elmix.analysis.ranks",
        "hf_elmix.analysis.tables",
    ],
    "hf_elmix.analysis.text": [],
    "hf_elmix.analysis.words": ["hf_elmix.analysis.aside", "hf_elmix.analysis.plots", "hf_elmix.analysis.results"],
    "hf_elmix.analysis.views": [
        "hf_elmix.analysis.aside",
        "hf_elmix.analysis.profile",
        "hf_elmix.analysis.plots",
        "hf_elmix.analysis.results",
        "hf_elmix.analysis.text",
        "hf_elmix.analysis.words",
    ],
    "hf_elmix.analysis.section": ["hf_elmix.analysis.text"],
    "hf_elmix.analysis.calibration_section": [
        "hf_elmix.diagnostics.calibration",
        "hf_elmix.analysis.calibrated",
        "hf_elmix.analysis.plots",
        "hf_elmix.analysis.predicted",
        "hf_elmix.analysis.results",
        "hf_elmix.analysis.section",
        "hf_elmix.analysis.text",
        "hf_elmix.analysis.words",
    ],
    "hf_elmix.analysis.cohort_section": [
        "hf_elmix.diagnostics.predictions",
        "hf_elmix.diagnostics.flow",
        "hf_elmix.diagnostics.transitions",
        "hf_elmix.analysis.moves",
        "hf_elmix.analysis.plots",
        "hf_elmix.analysis.predicted",
        "hf_elmix.analysis.results",
        "hf_elmix.analysis.section",
        "hf_elmix.analysis.text",
        "hf_elmix.analysis.words",
    ],
    "hf_elmix.analysis.report": [
        "hf_elmix.analysis.aside",
        "hf_elmix.analysis.calibration_section",
        "hf_elmix.analysis.cohort_section",
        "hf_elmix.analysis.plots",
        "hf_elmix.analysis.results",
        "hf_elmix.analysis.section",
        "hf_elmix.analysis.text",
        "hf_elmix.analysis.words",
        "hf_elmix.analysis.views",
    ],
    "hf_elmix.card": ["hf_elmix.schedules", "hf_elmix.spelling", "hf_elmix.analysis.plots", "hf_elmix.analysis.text"],
    "hf_elmix.analysis.dataset": [
        "hf_elmix.analysis.plots",
        "hf_elmix.analysis.results",
        "hf_elmix.analysis.text",
        "hf_elmix.analysis.words",
        "hf_elmix.analysis.views",
        "hf_elmix.card",
    ],
    "hf_elmix.analysis.command": [
        "hf_elmix.errors",
        "hf_elmix.commands",
        "hf_elmix.study.store",
        "hf_elmix.analysis.tables",
        "hf_elmix.analysis.results",
        "hf_elmix.analysis.report",
    ],
}
LIGHT = [
    "hf_elmix.errors",
    "hf_elmix.schedules",
    "hf_elmix.objectives",
    "hf_elmix.spelling",
    *(
        f"hf_elmix.study.{name}"
        for name in ("spec", "fork", "store", "status", "trackers", "keep", "view", "workers", "grid")
    ),
    *(f"hf_elmix.diagnostics.{name}" for name in ("predictions", "transitions", "flow", "calibration")),
    "hf_elmix.analysis.report",
    "hf_elmix.analysis.dataset",
    "hf_elmix.card",
    "glue_runs.protocol",
]


def modules(package: str) -> dict[str, Path]:
    paths = [path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    tree = ast.walk(ast.parse(path.read_text()))
    found: set[str] = set()
    for node in tree:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            # Of a package, what is imported may be a module in it.
            found |= inside & set(ARROWS) or {node.module or ""}
    return found


def test_the_table_names_every_module():
    assert set(modules("hf_elmix")) == set(ARROWS)


@pytest.mark.parametrize("name", ARROWS)
def test_arrows(name):
    own = {module for module in imports(modules("hf_elmix")[name]) if module.startswith(("hf_elmix", "glue_runs"))}
    assert own <= set(ARROWS[name])
    order = list(ARROWS)
    assert all(order.index(module) < order.index(name) for module in ARROWS[name])


def test_the_engine_never_says_glue():
    assert [path for path in (ROOT / "hf_elmix").rglob("*.py") if "glue" in path.read_text().lower()] == []


@pytest.mark.parametrize("name", [*LIGHT, "hf_elmix.analysis.report", "hf_elmix.analysis.command"])
def test_imported_without_pytorch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
