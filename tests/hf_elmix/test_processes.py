"""The other ways to the loss in two processes, each beside itself in one process on the joined batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("trl", minversion="1.16")
pytest.importorskip("sentence_transformers", minversion="6.2")

SCRIPT = """
import json, pathlib, sys
import torch, trl
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed
sys.path.insert(0, sys.argv[1])
import conftest, test_sft
from glue_runs.pocket.encoder import encoder_path
from hf_elmix import mixed_loss_func
from hf_elmix.integrations.sentence_transformers import MixedCrossEncoderLoss
from hf_elmix.integrations.trl import MixedSFTTrainer

folder, size, accumulation = pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
ARGS = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0, "max_steps": 2, "logging_steps": 1, "use_cpu": True}
ARGS |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "report_to": "none"}
ARGS |= {"disable_tqdm": True, "save_strategy": "no", "train_sampling_strategy": "sequential"}
ARGS |= {"ddp_find_unused_parameters": False}  # without it the stock CrossEncoderTrainer fails with its own loss, too

def function():
    f, kit = mixed_loss_func("0.3"), conftest.Kit(folder)
    return kit.trainer(Trainer, compute_loss_func=f, callbacks=[f], **kit.tokens(dropout=0.0), **ARGS)

def sft():
    rows = Dataset.from_list(test_sft.ROWS * 2)
    args = trl.SFTConfig(str(folder), bf16=False, activation_checkpointing=False, **ARGS)
    words = test_sft.word_tokenizer()
    return MixedSFTTrainer(test_sft.llama(), args, train_dataset=rows, processing_class=words, loss="0.3")

def cross_encoder():
    set_seed(0)
    model, f = CrossEncoder(encoder_path(), num_labels=3, device="cpu"), mixed_loss_func("0.3")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    texts = enumerate(("a book", "a film", "the story", "a play", "the music", "it", "no one", "the end"))
    pairs = Dataset.from_list([{"a": text, "b": "a book was read", "label": k % 3} for k, text in texts])
    args, loss = CrossEncoderTrainingArguments(str(folder), **ARGS), MixedCrossEncoderLoss(model, f)
    return CrossEncoderTrainer(model=model, args=args, train_dataset=pairs, loss=loss, callbacks=[f])

for make in (function, sft, cross_encoder):
    trainer = make()
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if trainer.args.process_index == 0:
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        torch.save(weights, folder / f"{make.__name__}.pt")
        (folder / f"{make.__name__}.json").write_text(json.dumps(trainer.state.log_history))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""
WAYS = ("function", "sft", "cross_encoder")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights and logs of each way, by the number of processes."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "train.py"
    script.write_text(SCRIPT)

    def run(processes: int, size: int, accumulation: int) -> dict:
        out = folder / str(processes)
        out.mkdir()
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
        command = [*launch, str(script), os.path.dirname(__file__), str(out), str(size), str(accumulation)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        return {
            way: (torch.load(out / f"{way}.pt", weights_only=True), json.loads((out / f"{way}.json").read_text()))
            for way in WAYS
        }

    return {1: run(1, 4, 1), 2: run(2, 1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one_on_the_joined_batch(trained, way):
    (one, one_logs), (two, two_logs) = trained[1][way], trained[2][way]
    assert max((one[name] - two[name]).abs().max().item() for name in one) <= 1e-6
    for ours, theirs in zip(two_logs, one_logs, strict=True):
        for name in {"loss", "loss_ce", "loss_el", "alpha", "beta"} & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
