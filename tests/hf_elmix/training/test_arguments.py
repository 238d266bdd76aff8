from __future__ import annotations

import dataclasses
import json

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_elmix import MixedLossArguments, MixingSchedule, UsageError


def test_only_the_new_fields_are_added():
    ours, theirs = (
        {field.name for field in dataclasses.fields(kind)} for kind in (MixedLossArguments, TrainingArguments)
    )
    assert ours - theirs == {"class_weights", "loss", "mixing"}
    assert theirs <= ours


def test_read_from_a_command_line(tmp_path):
    words = ["--output_dir", str(tmp_path), "--mixing", "0@0 0.5@0.9", "--learning_rate", "0.1"]
    (args,) = HfArgumentParser(MixedLossArguments).parse_args_into_dataclasses(words)
    assert (args.mixing, args.loss, args.learning_rate) == (None, "mix:0@0 0.5@0.9", 0.1)
    (args,) = HfArgumentParser(MixedLossArguments).parse_dict({"output_dir": str(tmp_path), "mixing": "0.3"})
    assert args.loss == "mix:0.3"
    assert MixedLossArguments(str(tmp_path)).loss == "mix:0-0.5"


def test_written_to_json_for_trackers(tmp_path):
    assert json.loads(MixedLossArguments(str(tmp_path), mixing="el").to_json_string())["loss"] == "el"


def test_a_bad_schedule_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'ce'"):
        MixedLossArguments(str(tmp_path), mixing="cee")


@pytest.mark.parametrize(("mixing", "text"), [(0.3, "mix:0.3"), (0, "mix:0"), (MixingSchedule.parse("ce"), "ce")])
def test_numbers_and_schedules_become_text(tmp_path, mixing, text):
    args = MixedLossArguments(str(tmp_path), mixing=mixing)
    assert args.loss == text
    assert json.loads(args.to_json_string())["loss"] == text
