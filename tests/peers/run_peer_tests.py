"""Run other libraries' tests of their Trainers on ours, beside the same tests on theirs: only differences count.

    git clone --depth 1 https://github.com/huggingface/peft SOURCES/peft
    python tests/peers/run_peer_tests.py SOURCES

SOURCES has a folder for each library, of about the installed version: wheels have no tests. Nothing of theirs is
changed: a plugin (`peer_plugin`) exchanges the classes, and small stand-ins replace what they load from the Hub
(`tiny_hub`). Tests that fail or are skipped with the library's own class are left out. Needs `parameterized` and
`sentencepiece`, `diffusers` for PEFT's, and runs more with `optuna`.
"""

from __future__ import annotations

import argparse
import collections
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
FIRST, LAST = "<!-- peers -->", "<!-- /peers -->"


@dataclass(frozen=True)
class Suite:
    """Tests of a library.

    Attributes:
        title: What is exchanged, for the table.
        files: Its files of tests.
        where: A pytest expression that selects tests of the Trainer.
        expected: Why tests may differ, by a pattern of their names.
    """

    title: str
    files: tuple[str, ...]
    where: str = ""
    expected: dict[str, str] = field(default_factory=dict)


SUITES = {
    "transformers": Suite(
        "`Trainer`, with its regression models made classifiers",
        tuple(f"tests/trainer/test_trainer{part}.py" for part in ("", "_callback", "_seq2seq")),
        "not compile and not mem_metrics",  # minutes each
        {
            "test_gradient_checkpointing": "its model returns more logits than labels, once it is a classifier",
            "with_loss_func": "`compute_loss_func` is refused",
        },
    ),
    "trl": Suite(
        "`SFTTrainer`",
        ("tests/test_sft_trainer.py",),
        "TestSFTTrainer",
        {"dft": '`loss_type="dft"` is refused'},
    ),
    "sentence-transformers": Suite(
        "`CrossEntropyLoss` in `CrossEncoderTrainer`, with scores made classes",
        ("tests/cross_encoder/test_trainer.py",),
    ),
    "peft": Suite(
        "`Trainer`",
        tuple(f"tests/test_{part}.py" for part in ("cpt", "decoder_models", "helpers", "torch_compile")),
        "training_random or training_text or prefix_tuning_mistral or prompt_learning_with_gradient or "
        "variational_loss_to_trainer or trainer_compile",  # all that use a Trainer without a GPU
        {"test_cpt|CPTConfig": "CPT also trains on the labels of its prompt, which is refused"},
    ),
}


def outcomes(selection: list[str], tests: Path, trainer: str, folder: Path) -> dict[str, tuple[str, str]]:
    """The outcome of each test and the reason of a failure, with one of the Trainers."""
    results = folder / f"{trainer}.jsonl"
    if not results.exists():
        run(selection, tests, trainer, results)
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {line["test"]: (line["outcome"], line["why"]) for line in lines}


def run(selection: list[str], tests: Path, trainer: str, results: Path) -> None:
    """Run tests with one of the Trainers, offline; what pytest prints goes into a file beside the results."""
    folder = results.parent
    results.touch()
    paths = os.pathsep.join(str(path) for path in (HERE, HERE.parents[1], tests, os.environ.get("PYTHONPATH", "")))
    environment = {
        **os.environ, "PYTHONPATH": paths, "PEER_TRAINER": trainer, "PEER_RESULTS": str(results),
        "PEER_FOLDER": str(folder / "data"), "HF_HUB_CACHE": str(folder.parent / "hub"), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    environment.pop("HF_ENDPOINT", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "peer_plugin", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["-o", "filterwarnings=", "--continue-on-collection-errors"]
    if not (tests / "tests" / "__init__.py").exists():  # left out of a source distribution
        command += ["--import-mode=importlib", "-o", "consider_namespace_packages=true"]
    command += ["--basetemp", str(folder / "tmp"), *selection]
    with (folder / f"{trainer}.log").open("w") as log:
        subprocess.run(command, cwd=tests, env=environment, stdout=log, stderr=log, check=False)


def stand_ins(suite: Suite, tests: Path, cache: Path) -> None:
    """Build each model that the tests name."""
    import tiny_hub

    helpers = [*tests.glob("tests/conftest.py"), *tests.glob("tests/*utils.py")]
    for path in (*helpers, *(part for name in suite.files for part in (tests / name, *(tests / name).glob("*.py")))):
        if path.is_file():
            for name in sorted(set(re.findall(r"[\"']([\w./-]+)[\"']", path.read_text(encoding="utf-8")))):
                tiny_hub.build(name, cache)


def compare(library: str, tests: Path, only: str, folder: Path) -> str:
    """Run a library's tests twice, print what differs, and return a row of the table."""
    suite = SUITES[library]
    folder.mkdir(parents=True, exist_ok=True)
    stand_ins(suite, tests, folder.parent / "hub")
    select = " and ".join(f"({part})" for part in (suite.where, only) if part)
    stock = outcomes([*(["-k", select] if select else []), *suite.files], tests, "stock", folder)
    counted = sorted(test for test, (outcome, _) in stock.items() if outcome == "passed")
    ours = outcomes(counted, tests, "ours", folder) if counted else {}
    apart = {test: ours.get(test, ("not run", "")) for test in counted if ours.get(test, ("", ""))[0] != "passed"}
    reasons: collections.Counter[str] = collections.Counter()
    for test, (outcome, why) in sorted(apart.items()):
        reason = next((text for name, text in suite.expected.items() if re.search(name, test)), "")
        reasons[reason or "unexpected"] += 1
        print(f"{library}: {test}: {outcome}{' as expected: ' + reason if reason else ''}: {why[:200]!r}")
    for test, (outcome, why) in sorted(stock.items()):
        if outcome in ("failed", "error"):
            print(f"  left out, {library}: {test}: {why[:150]!r}")
    version = importlib.metadata.version(library)
    print(f"{library} {version}: {len(counted) - len(apart)} of {len(counted)} pass; {dict(reasons)}", flush=True)
    why = "; ".join(f"{count}: {reason}" for reason, count in sorted(reasons.items()))
    return f"| {library} {version} | {suite.title} | {len(counted) - len(apart)} of {len(counted)} | {why} |"


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="a folder with one of each library's sources")
    parser.add_argument("--libraries", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("-k", default="", dest="only", help="run only these tests, as for pytest")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    parser.add_argument("--folder", type=Path, help="keep results and logs here; what is there is not repeated")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    places = {library: args.sources.resolve() / library for library in args.libraries}
    rows = [
        compare(library, place, args.only, folder.resolve() / library)
        for library, place in places.items()
        if (place / "tests").is_dir()
    ]
    if args.page:
        table = ["| tests of | in place of | pass | others |", "|---|---|---|---|", *rows]
        text = args.page.read_text(encoding="utf-8")
        before, after = text.split(FIRST)[0], text.split(LAST)[1]
        args.page.write_text(before + "\n".join((FIRST, "", *table, "", LAST)) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
