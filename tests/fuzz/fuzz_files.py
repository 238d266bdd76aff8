"""Seeded data files that are right, odd or damaged: each is read as it was written, or refused in one line.

Usage: python tests/fuzz/fuzz_files.py --inputs 1000 --seed 0
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from glue_runs.commands import main as glue_runs
from glue_runs.pocket.encoder import encoder_path
from hf_elmix import UsageError
from hf_elmix.text.custom import custom_task
from hf_elmix.text.files import read_files

TEXTS = ["a film", "None", "NA", "null", "nan", "true", "007", "1.50", "2020-01-01 00:00:00", " spaces ", 'so "good"']
TEXTS += ['"all of it"', '"it begins', 'it ends"', '5" disk', "a, b", "a; b", "tab\there", "two\nlines", "x,good\ny"]
TEXTS += ["é 漢 🎬", "\u2028 \x85 \x0b", "#", "\\n", "'"]
CLASSES = [["bad", "good"], ["None", "Some"], ["NA", "null"], ["LABEL_0", "LABEL_1"], ["0", "1"], ["1", "2", "3"]]
CLASSES += [["false", "true", "maybe"], ["10", "9"]]
KINDS = ["csv", "tsv", "raw tsv", "json", "jsonl", "parquet"]
ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16"]
DAMAGES = ["none", "none", "none", "cut", "byte", "latin", "trailing", "index", "twice", "no label", "odd label"]
COMMAND_SHARE = 100  # one input in so many is also given to the command
NO_LABEL = -1


@dataclass(frozen=True)
class Case:
    """A data file, the rows that were written to it, and what was done to it.

    Attributes:
        name: What is special about it.
        suffix: Of its name.
        content: Its bytes.
        rows: Texts and labels.
        damage: One of `DAMAGES`.
        model: Names of the classes of the model that is given the file.
        ids: Their class ids of the labels; None if the file must be refused for that model.
    """

    name: str
    suffix: str
    content: bytes
    rows: list[tuple[str, str]]
    damage: str
    model: tuple[str, ...]
    ids: list[int] | None


def cases(seed: int) -> Iterator[Case]:
    """Endless cases, always the same for a seed."""
    for number in range(sys.maxsize):
        rng = random.Random(f"{seed}-{number}")
        kind, damage, classes = rng.choice(KINDS), rng.choice(DAMAGES), rng.choice(CLASSES)
        texts = [text for text in TEXTS if kind != "raw tsv" or not set(text) & set("\t\n\r")]
        labels = [*classes, *classes, *rng.choices(classes, k=rng.randint(0, 8))]
        rng.shuffle(labels)
        rows = [(rng.choice(texts), label) for label in labels]
        model, ids = _for_a_model(rng, classes, labels)
        if damage == "odd label" or damage == "no label":
            place = rng.randrange(len(rows))
            rows[place], ids = (rows[place][0], "" if damage == "no label" else "zebra"), None
        content = _written(rng, kind, rows, damage)
        yield Case(f"{seed}-{number} {kind}, {damage}", kind.split()[-1], content, rows, damage, model, ids)


def _for_a_model(
    rng: random.Random, classes: list[str], labels: list[str]
) -> tuple[tuple[str, ...], list[int] | None]:
    """The classes of a model in any order and case, perhaps with others; or other words, which must be refused."""
    names = rng.sample(classes, len(classes)) + rng.choice([[], ["other"]])
    ids = [names.index(label) for label in labels]
    case = rng.choice([str, str.upper, str.title, None])
    if case is None:
        # A number is a class id, unless a name holds another one: then it may mean the class of that name.
        unclear = any(name.isdigit() and name != str(place) for place, name in enumerate(names))
        known = set(labels) <= set(map(str, range(len(names))))
        ids = [int(label) for label in labels] if known and not unclear else None
        return tuple(f"not {name}" for name in names), ids
    return tuple(map(case, names)), ids


def _written(rng: random.Random, kind: str, rows: list[tuple[str, str]], damage: str) -> bytes:
    encoding = "latin-1" if damage == "latin" else rng.choice(ENCODINGS)
    records = [{"text": text, "label": label or None} for text, label in rows]
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), file)
        content = file.getvalue()
    elif kind in ("json", "jsonl"):
        ascii_only = rng.random() < 0.5
        texts = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
        text = "[" + ",\n".join(texts) + "]" if kind == "json" else "\n".join(texts)
        content = text.encode(encoding, "replace")
    else:
        content = _table(rng, kind, rows, damage).encode(encoding, "replace")
    if damage == "cut":
        content = content[: rng.randrange(len(content))]
    if damage == "byte":
        place = rng.randrange(len(content))
        content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    return content


def _table(rng: random.Random, kind: str, rows: list[tuple[str, str]], damage: str) -> str:
    header, lines = ["text", "label"], [list(row) for row in rows]
    if damage == "index":
        header, lines = ["", *header], [[str(k), *line] for k, line in enumerate(lines)]
    if damage == "twice":
        header = ["text", "text", "label"]
        lines = [[line[0], *line] for line in lines]
    if damage == "trailing":
        lines = [[*line, ""] for line in lines]
    if kind == "raw tsv":
        return "".join("\t".join(line) + "\n" for line in [header, *lines])
    file = io.StringIO(newline="")
    quoting, end = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), rng.choice(["\n", "\r\n"])
    csv.writer(file, delimiter="," if kind == "csv" else "\t", quoting=quoting, lineterminator=end).writerows(
        [header, *lines]
    )
    return file.getvalue()


def check(case: Case, folder: Path) -> bool:
    """Whether the file is read; an `AssertionError` if it is read as something else, or refused in several lines."""
    path = folder / f"rows.{case.suffix}"
    path.write_bytes(case.content)
    with warnings.catch_warnings(action="ignore"):
        found = _attempt(lambda: read_files({"train": str(path)}))
        if found is None:
            return False
        read = [(row.get("text"), row.get("label")) for row in found["train"].to_list()]
        wanted = [(text, label or None) for text, label in case.rows]
        if case.damage == "cut":  # what is left of the last row may be anything
            assert read[:-1] == wanted[: max(len(read) - 1, 0)], f"{case.name}: read {read}, not {wanted}"
            return True
        if case.damage in ("byte", "latin"):
            return True
        assert case.damage not in ("trailing", "twice") or case.suffix not in ("csv", "tsv"), f"{case.name} was read"
        assert read == wanted, f"{case.name}: read {read}, not {wanted}"
        options = {"limits": {"train": None}, "text_columns": "text"}
        scored = _attempt(lambda: custom_task(found, "mine", labels=case.model, **options))
        ids = None if scored is None else scored[1]["train"]["label"][:]
        assert ids == case.ids, f"{case.name}: classes {case.model}, labels {wanted}, ids {ids} and not {case.ids}"
        trained = _attempt(lambda: custom_task(found, "mine", **options))
        if trained is None:
            return False
        task, used = trained
        assert case.damage != "no label", f"{case.name} was read without a label"
        assert [task.labels[k] for k in used["train"]["label"]] == [y for _, y in wanted]
    return True


def check_command(case: Case, folder: Path) -> None:
    """Train a step on the file: the command succeeds on all rows, or refuses it and writes nothing."""
    path, output = folder / f"rows.{case.suffix}", folder / "out"
    path.write_bytes(case.content)
    words = ["finetune", "--train_file", path, "--text_column_names", "text", "--output_dir", output, "--max_steps", 1]
    words += ["--model_name_or_path", encoder_path(), "--do_train", "--report_to", "none", "--use_cpu"]
    words += ["--disable_tqdm", "true"]
    code = glue_runs(list(map(str, words)))
    assert code in (0, 2), f"{case.name}: exit code {code}"
    assert output.exists() == (code == 0), f"{case.name}: files after exit code {code}"
    if code == 0 and case.damage not in ("cut", "byte", "latin"):
        read = json.loads((output / "train_results.json").read_text())["train_samples"]
        assert read == len(case.rows), f"{case.name}: {read} rows and not {len(case.rows)}"


def _attempt(action):
    """What the action returns; None if it refuses its input in one line."""
    try:
        return action()
    except UsageError as error:
        message = str(error)
    assert "\n" not in message, f"several lines: {message}"
    return None


def run(inputs: int, seed: int, *, commands: int = COMMAND_SHARE) -> dict[str, int]:
    """Try so many inputs, and count those that were read and those that were refused."""
    counts = {"read": 0, "refused": 0}
    for number, case in enumerate(islice(cases(seed), inputs)):
        with tempfile.TemporaryDirectory() as folder:
            counts["read" if check(case, Path(folder)) else "refused"] += 1
            if number % commands == 0:
                check_command(case, Path(folder))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    args = parser.parse_args()
    print(run(args.inputs, args.seed))


if __name__ == "__main__":
    main()
