from __future__ import annotations

import json

import pytest

from glue_runs.arguments import DEFAULTS, SHOWN
from glue_runs.flags import GONE, parse
from glue_runs.protocol import ARGUMENTS
from glue_runs.training_arguments import FinetuneArguments
from hf_elmix import UsageError

BASE = ["--task_name", "cola", "--output_dir", "out", "--use_cpu"]


def test_defaults_are_the_protocols(tmp_path):
    args = FinetuneArguments(str(tmp_path))
    assert {name: getattr(args, name) for name in ARGUMENTS} == ARGUMENTS
    assert args.loss == "mix:0-0.5"


@pytest.mark.parametrize(
    ("more", "done"),
    [
        ([], "train eval"),
        (["--do_train"], "train"),
        (["--do_train", "--do_predict"], "train predict"),
        (["--do_train", "--eval_strategy", "epoch"], "train eval"),
        (["--do_predict=true"], "predict"),
        (["--do-eval"], "eval"),
        (["--do_train", "--do_eval", "false"], "train"),
    ],
)
def test_what_is_done_is_what_was_asked_for(more, done):
    """The default evaluation strategy switches `do_eval` on, so the words of the command line decide."""
    _, _, args = parse([*BASE, *more])
    assert [name for name in ("train", "eval", "predict") if getattr(args, f"do_{name}")] == done.split()
    assert (args.eval_strategy != "no") == ("eval" in done)


@pytest.mark.parametrize("name", GONE)
def test_a_flag_that_is_gone_says_what_to_type(name):
    with pytest.raises(UsageError, match=f"--{name} does not exist here: (type|leave|set|log in|save)"):
        parse([*BASE, f"--{name.replace('_', '-')}", "1"])


def test_no_flag_that_is_gone_exists():
    fields = set(FinetuneArguments.__dataclass_fields__)
    assert not set(GONE) & fields


@pytest.mark.parametrize(("words", "padding"), [([], "free"), (["true"], "max_length"), (["false"], "longest")])
def test_run_glues_name_for_padding(words, padding):
    data, _, _ = parse([*BASE, *(["--pad_to_max_length", *words] if words else [])])
    assert data.padding == padding


@pytest.mark.parametrize("kind", ["json", "yaml", "first word"])
def test_a_file_of_arguments(tmp_path, kind):
    values = {
        "task_name": "rte",
        "output_dir": "out",
        "do_train": True,
        "use_cpu": True,
        "learning_rate": 1e-4,
        "mixing": "0,0.5",
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "include_for_metrics": ["inputs", "loss"],
        "max_train_samples": None,
        "remove_unused_columns": False,
    }
    path = tmp_path / ("a.yml" if kind == "yaml" else "a.json")
    path.write_text(json.dumps(values))  # JSON is YAML too
    config = [str(path)] if kind == "first word" else ["--config", str(path)]
    data, _, args = parse([*config, "--learning_rate", "2e-4"])
    assert (data.task_name, data.max_train_samples, args.loss) == ("rte", None, "mix:0,0.5")
    assert args.learning_rate == 2e-4  # the command line overrides the file
    assert (args.do_train, args.do_eval, args.remove_unused_columns) == (True, False, False)
    assert args.include_for_metrics == ["inputs", "loss"]
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}


def test_a_yaml_file_and_the_words_before_it(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("task_name: mrpc\nmax_seq_length: 128\nseed: 3\n")
    data, _, args = parse(["--output_dir", "out", "--use_cpu", f"--config={path}", "--seed=4"])
    assert (data.task_name, data.max_seq_length, args.seed, args.output_dir) == ("mrpc", 128, 4, "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "Cannot read"),
        ("[1, 2]", "map names of flags to values"),
        ('{"learning_rat": 1}', "'--learning_rat=1'.*Did you mean '--learning_rate'"),
        ('{"learning_rate": "fast"}', "--learning_rate to be a number, but got 'fast'"),
    ],
)
def test_a_file_that_holds_no_arguments(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse([*BASE, "--config", str(path)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output_dir", "out"], "Expected rows: --task_name"),
        ([*BASE, "--train_file", "a.csv"], "--train_file or --task_name, but got both"),
        ([*BASE, "--mixing", "0-0.6"], "Did you mean '0-0.5'"),
        ([*BASE, "--learning_rat", "1"], "learning_rat"),
        ([*BASE, "--per_device_train_batch_size", "0"], "1 or more, but got 0"),
        ([*BASE, "--seed", "-1"], "0 or more, but got -1"),
        ([*BASE, "--config"], "Cannot read the arguments in ''"),
        ([*BASE, "--eval_strategy", "epoch", "--save_strategy", "steps", "--load_best_model_at_end"], "match"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UsageError, match=message):
        parse(words)


FILES = ["--train_file", "a.csv", "--output_dir", "out", "--use_cpu"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Expected --validation_file for --do_eval, but got only --train_file. Type it, or only --do_train."),
        ("--do_predict", "Expected --test_file for --do_predict"),
        ("--do_train --validation_split_name dev", "--validation_split_name to be one of train, but got 'dev'"),
        ("--do_train --shuffle_seed 3", "it needs --shuffle_train_dataset"),
    ],
)
def test_files_that_are_not_given_are_asked_for_by_their_flags(words, message):
    with pytest.raises(UsageError, match=message):
        parse([*FILES, *words.split()])


def test_the_flags_that_help_shows_exist_with_these_defaults(tmp_path):
    args = FinetuneArguments(str(tmp_path), use_cpu=True)
    flags = {name for group in SHOWN.values() for name in group}
    assert flags - {"config"} <= FinetuneArguments.__dataclass_fields__.keys()
    assert {name: getattr(args, name) for name in DEFAULTS} == DEFAULTS


def test_several_trackers():
    assert parse(BASE)[2].report_to == []
    assert parse([*BASE, "--report_to", "tensorboard", "trackio"])[2].report_to == ["tensorboard", "trackio"]


def test_the_stock_loss():
    for flag in ("--mixing", "--loss"):
        args = parse([*BASE, flag, "none"])[2]
        assert (args.mixing, args.loss) == (None, "none")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--loss none --mixing 0-0.5", "'none' is the model's own loss, but '0-0.5' is given, too"),
        ("--mixing none --loss zzz", "'none' is the model's own loss, but 'zzz' is given, too"),
        ("--padding free --pad_to_max_length", "--padding or --pad_to_max_length, but got both"),
        ("--label_column_name y", "--task_name or --label_column_name, but got both"),
        ("--dataset_config_name x", "--task_name or --dataset_config_name, but got both"),
        ("--hub_strategy end", "--hub_strategy cannot be used here"),
        ("--prediction_loss_only", "--prediction_loss_only cannot be used here"),
        ("--eval_steps 5", "it needs --eval_strategy steps"),
        ("--padding zzz", "--padding to be one of free, longest, multiple_of_16, max_length"),
        ("--task_name cloa", "Did you mean 'cola'"),
        ("--output_dir s3://bucket/out", "the URL 's3://bucket/out'"),
        ("--output_dir /proc/out", "that can be written to, but got '/proc/out'"),
        ("--report_to wandb", "wandb"),
        ("--max_train_samples -1", "--max_train_samples to be 1 or more"),
        ("--loss focal --label_smoothing_factor 0.1", "cannot be applied to the loss 'focal"),
    ],
)
def test_flags_that_would_be_ignored_or_fail_later_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        parse([*BASE, *words.split()])
    assert list(tmp_path.iterdir()) == []


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{k}: &{k} [{','.join([f'*{j}'] * 9)}]\n" for j, k in ("ab", "bc", "cd")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "refers to a part of itself"),
        ("seed: 1\nseed: 2\n", "'seed' 2 times"),
        ("run_name: !!binary aGk=\n", "texts and numbers as values, but got b'hi'"),
        ("run_name: !!python/object:os.system x\n", "could not determine a constructor"),
        ("[" * 100_000, "recursion"),
        ("\x00", "special characters"),
        ("include_for_metrics: [--do_predict]\n", "looks like a flag"),
        ("run_name: [a\n", "while parsing"),
        ("seed: .nan\n", "NaN"),
        ('run_name: "\\ud800"\n', "UTF-8"),
    ],
)
def test_yaml_that_is_no_list_of_flags(text, message, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        parse([*BASE, "--config", str(path)])
    assert len(str(raised.value)) < 400


def test_dates_and_texts_like_flags_are_taken_as_written(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("run_name: 2026-11-30\nmodel_name_or_path: --loss\n")
    _, model, args = parse([*BASE, "--config", str(path)])
    assert (args.run_name, model.model_name_or_path) == ("2026-11-30", "--loss")


def test_names_in_json_are_given_once(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"seed": 1, "seed": 2}')
    with pytest.raises(UsageError, match="'seed' 2 times"):
        parse([*BASE, "--config", str(path)])
    with pytest.raises(UsageError, match="--config twice"):
        parse([*BASE, "--config", str(path), "--config", str(path)])


def test_class_weights_need_a_loss_of_ours():
    assert parse([*BASE, "--class_weights", "0.2", "1"])[2].class_weights == ["0.2", "1"]
    with pytest.raises(UsageError, match="--class_weights needs another loss than none"):
        parse([*BASE, "--mixing", "none", "--class_weights", "balanced"])
