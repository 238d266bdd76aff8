"""Seeded flags with hostile values: each command does what they say, or refuses them in one line and writes nothing.

Usage: python tests/fuzz/fuzz_flags.py --inputs 1000 --seed 0
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from datasets import Dataset
from transformers import TrainingArguments

from glue_runs.__main__ import main as glue_runs
from glue_runs.arguments import DataArguments, ModelArguments
from glue_runs.pocket.encoder import encoder_path

# What is left out: flags that are slow, need other hardware or a network, or change this process for good.
LEFT_OUT = (
    *("torch_compile", "use_liger", "liger", "full_determinism", "fsdp", "deepspeed", "ddp_", "parallelism"),
    *("local_rank", "log_level", "push_to_hub", "hub_", "enable_jit", "output_dir", "model_revision", "tf32"),
    *("use_cpu", "trust_remote", "logging_nan", "do_", "disable_tqdm"),
)  # fmt: skip
NUMBERS = [
    *("nan", "inf", "-inf", "-1", "-2", "0", "0.5", "1", "2", "1.5", "1e-320", "1e300", "4294967296", "-4294967296"),
    *("9" * 400, "", " ", "x", "None", "0x10", "1e3", "true", "١", "½"),
]
TEXTS = [
    *("", " ", "nan", "none", "all", "true", "../x", "/dev/null", "https://x.y/z", "s3://b/k", "-", "{", "{}", "[]"),
    *("null", '{"x": 1}', '{"min_lr": NaN}', "{'x'", "é漢", "a" * 300, "\udcff", "a\0b", "steps", "epoch", "no", "*"),
    *("a=b", "x,y"),
]  # fmt: skip
WORDS = ["true", "false", "", "maybe", "2"]  # for yes or no
LARGE = {"per_device_train_batch_size": "1000000000", "seed": "4294967295"}
OUTPUTS = [
    *("out", "out", "s3://", "zz://b/k", "https://x.y/z", "file", "file/out", "/proc/out", "a" * 300),
    *("~no_such_user/x", "é"),
]  # fmt: skip
LOSSES = [
    *("ce", "0-0.5", "none", "zzz", "focal", "mix:nan", "0@0 0.5@nan", "focal:gamma=inf", "1:0@0", "", "-1", "cot"),
    *("mmc", "gce:q=nan", "tce:a=0", "ce-rescaled:el"),
]  # fmt: skip
SEEDS = ["0", "-1", "4294967296", "nan", "1.5", "x", "", "9" * 30]
OFTEN_ZERO = ("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "label_smoothing_factor")
OFTEN_ZERO += ("neftune_noise_alpha", "eval_delay", "seed", "data_seed", "dataloader_num_workers")


@dataclass(frozen=True)
class Case:
    """A command line below a folder that holds rows.

    Attributes:
        words: The command line without its output folder.
        output: The output folder.
        impossible: Flags with values that nothing can be done with.
    """

    words: list[str]
    output: str
    impossible: list[str]


def cases(seed: int) -> Iterator[Case]:
    """Endless cases, always the same for a seed."""
    kinds = {
        name: get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
        for part in (TrainingArguments, DataArguments, ModelArguments)
        for name, hint in get_type_hints(part).items()
        if not name.startswith(("_", *LEFT_OUT)) and name in part.__dataclass_fields__
    }
    for number in range(sys.maxsize):
        rng = random.Random(f"{seed}-{number}")
        command = rng.choice(["finetune", "study"])
        flags = {}
        for name in rng.sample(sorted(kinds), rng.choice([1, 1, 1, 2])):
            flags[name] = _value(rng, name, kinds[name])
        base = {"task_name": "cola"} if command == "finetune" else {"tasks": "cola", "seeds": "0", "losses": "ce"}
        base |= {"dataset_name": "glue", "model_name_or_path": str(encoder_path()), "max_steps": "2"}
        if rng.random() < 0.15:
            flags["loss" if command == "finetune" else "losses"] = rng.choice(LOSSES)
        if rng.random() < 0.1:
            flags["seed" if command == "finetune" else "seeds"] = rng.choice(SEEDS)
        if "num_train_epochs" in flags:
            del base["max_steps"]
        numbers = [name for name in flags if {int, float} & {*kinds.get(name, ())}]
        impossible = [name for name in numbers if _is_impossible(name, flags[name], int in kinds[name])]
        words = [command, "--use_cpu", *(f"--{name}={value}" for name, value in {**base, **flags}.items())]
        yield Case(words, rng.choice(OUTPUTS) if rng.random() < 0.15 else "out", impossible)


def _value(rng: random.Random, name: str, kinds: tuple[type, ...]) -> str:
    if int in kinds or float in kinds:
        return rng.choice([*NUMBERS, LARGE[name]] if name in LARGE else NUMBERS)
    return rng.choice(WORDS if bool in kinds else TEXTS)


def _is_impossible(name: str, text: str, whole: bool) -> bool:
    """Whether nobody can mean this value of a number; independent of the bounds of the program."""
    try:
        value = float(int(text) if whole else float(text))
    except (ValueError, OverflowError):
        return True
    if name == "max_grad_norm":
        return math.isnan(value) or value < 0
    too_small = value < 0 or (value == 0 and name not in OFTEN_ZERO)
    default = value == -1 and name == "max_steps"  # which means that epochs are counted
    return not (default or (math.isfinite(value) and not too_small and value < 1e10))


def fault_of(case: Case, folder: Path) -> tuple[str, int]:
    """What is wrong with how a command ended, empty if nothing is; and its exit code."""
    before, said = _files(folder), io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said), chdir(folder):
            code = glue_runs([*case.words, f"--output_dir={case.output}"])
    except BaseException as error:
        return "".join(traceback.format_exception(error)[-3:]), -1
    lines = [line for line in said.getvalue().splitlines() if line.startswith("glue-runs: ")]
    made = {name for name in _files(folder) - before if not name.endswith(".lock")}
    output = folder / case.output
    if code not in (0, 2):
        return f"code {code}: {said.getvalue()[-600:] or _errors(output)}", code
    if code == 2:
        wrong = "more than one line" if len(lines) != 1 else f"made {sorted(made)[:3]}" if made else ""
        return wrong and f"{wrong}: {said.getvalue()[-600:]}", code
    if case.impossible:
        return f"accepted --{case.impossible[0]}", code
    half = [name for name in made if Path(name).name.startswith(".") or not _is_whole(folder / name)]
    wanted = "record.json" if case.words[0] == "study" else "all_results.json"
    state = output / "trainer_state.json"
    if state.exists() and not json.loads(state.read_text())["global_step"]:
        return "trained no step", code
    if half or not any(name.endswith(wanted) for name in made):
        return f"half a result: {half or sorted(made)[:5]}", code
    return "", code


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _is_whole(path: Path) -> bool:
    try:
        return path.suffix != ".json" or bool(json.loads(path.read_text()))
    except ValueError:
        return False


def _errors(output: Path) -> list[str]:
    return [str(json.loads(path.read_text())["error"])[:600] for path in output.rglob("record.json")]


def run(inputs: int, seed: int, show: bool = False) -> tuple[list[str], Counter[int]]:
    """Try a number of cases; returns the faults, and how many commands ended with each exit code."""
    faults, codes, start = [], Counter(), time.monotonic()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(place)
        (folder / "file").write_text("mine")
        (folder / "glue").mkdir()
        rows = [{"sentence": f"the dog sleeps {'well' * (k % 2)}", "label": k % 2, "idx": k} for k in range(8)]
        data = ["---", "configs:", "- config_name: cola", "  data_files:"]
        for split in ("train", "validation"):
            Dataset.from_list(rows).to_parquet(folder / "glue" / f"{split}.parquet")
            data += [f"  - split: {split}", f"    path: {split}.parquet"]
        (folder / "glue" / "README.md").write_text("\n".join([*data, "---", ""]))
        for number, case in enumerate(islice(cases(seed), inputs)):
            fault, code = fault_of(case, folder)
            codes[code] += 1
            if fault:
                faults.append(f"{seed}-{number} {case.words} {case.output!r}: {fault}")
                if show:
                    print(faults[-1], flush=True)
            for left in set(folder.iterdir()) - {folder / "file", folder / "glue"}:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if show and (number + 1) % 50 == 0:
                rest = (time.monotonic() - start) / (number + 1) * (inputs - number - 1)
                print(f"{number + 1}/{inputs}, {len(faults)} faults, {rest / 60:.1f} min left", file=sys.stderr)
    return faults, codes


def main() -> int:
    """Try the cases of a seed and print those that show a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    faults, codes = run(args.inputs, args.seed, show=True)
    print(f"{args.inputs} inputs, {len(faults)} faults; exit codes {dict(codes)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
