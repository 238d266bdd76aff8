"""Every way to the loss in two processes, each compared with one process on the joined batches.

One launch of processes runs all of its cases, because starting them takes longer than the training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", minversion="1.4")
pytest.importorskip("sentence_transformers", minversion="5.4")

SCRIPT = """
import json, pathlib, sys
import torch, trl
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import PrinterCallback, Trainer, set_seed
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/integrations"]
import conftest, test_trl
from glue_runs.pocket.encoder import encoder_path
from hf_elmix import ComplementTrainer, MixedLossTrainer, mixed_loss_func
from hf_elmix.integrations.sentence_transformers import MixedCrossEncoderLoss
from hf_elmix.integrations.trl import MixedSFTTrainer

folder, kit = pathlib.Path(sys.argv[2]), conftest.Kit(pathlib.Path(sys.argv[2]))
SMALL = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0, "max_steps": 2, "logging_steps": 1, "use_cpu": True}
SMALL |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "train_sampling_strategy": "sequential"}
SMALL |= {"ddp_find_unused_parameters": False}  # without it the stock CrossEncoderTrainer fails with its own loss, too

def mixin(given, kind=MixedLossTrainer, rows="sequence", **more):
    tokens = kit.tokens(dropout=0) if rows == "token" else {"model": kit.sequence_model(dropout=0)}
    more |= {**tokens, "train_dataset": getattr(kit, rows + "_rows")(36), "optim": "sgd", "learning_rate": 0.1}
    size = {"per_device_eval_batch_size": 20 * given["per_device_train_batch_size"] // 12}
    return kit.trainer(kind, ddp_backend="gloo", **size, **more, **given)

def function(given):
    f = mixed_loss_func("0.3")
    return kit.trainer(Trainer, compute_loss_func=f, callbacks=[f], **kit.tokens(dropout=0.0), **SMALL, **given)

def sft(given):
    args = trl.SFTConfig(str(folder), bf16=False, gradient_checkpointing=False, **SMALL, **given)
    rows, words = Dataset.from_list(test_trl.ROWS * 2), test_trl.word_tokenizer()
    return MixedSFTTrainer(test_trl.llama(), args, train_dataset=rows, processing_class=words, loss="0.3")

def cross_encoder(given):
    set_seed(0)
    model, f = CrossEncoder(encoder_path(), num_labels=3, device="cpu"), mixed_loss_func("0.3")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    texts = enumerate(("a book", "a film", "the story", "a play", "the music", "it", "no one", "the end"))
    pairs = Dataset.from_list([{"a": text, "b": "a book was read", "label": k % 3} for k, text in texts])
    args, loss = CrossEncoderTrainingArguments(str(folder), **SMALL, **given), MixedCrossEncoderLoss(model, f)
    return CrossEncoderTrainer(model=model, args=args, train_dataset=pairs, loss=loss, callbacks=[f])

WAYS = {
    "sequences": lambda given: mixin(given, mixing="0-0.5"),
    "tokens": lambda given: mixin(given, mixing="0-0.5", rows="token"),
    "stock": lambda given: mixin(given, kind=Trainer),
    "complement": lambda given: mixin(given, kind=ComplementTrainer, train_sampling_strategy="sequential"),
    "function": function, "sft": sft, "cross_encoder": cross_encoder,
}
for way, size, accumulation in json.loads(sys.argv[3]):
    trainer = WAYS[way]({"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation})
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    logs = trainer.state.log_history
    metrics = trainer.evaluate() if way in ("sequences", "stock") else {}
    if trainer.args.process_index == 0:
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        torch.save((weights, logs, metrics), folder / f"{way}-{size}-{accumulation}.pt")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""

# For each way, the batch size of one process, and what two processes do instead: batch size and accumulation.
CASES = {
    "sequences": (12, [(6, 1), (3, 2)]),
    "tokens": (12, [(6, 1), (3, 2)]),
    "complement": (12, [(6, 1), (3, 2)]),
    "function": (4, [(1, 2)]),
    "sft": (4, [(1, 2)]),
    "cross_encoder": (4, [(1, 2)]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights, logs and evaluation metrics of each case: ``trained(processes, way, batch size, accumulation)``."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "train.py").write_text(SCRIPT)
    cases: dict[int, list[Any]] = {
        1: [("stock", 12, 1), *((way, size, 1) for way, (size, _) in CASES.items())],
        2: [("stock", 6, 1), *((way, *split) for way, (_, splits) in CASES.items() for split in splits)],
    }
    for processes, of_these in cases.items():
        out = folder / str(processes)
        out.mkdir()
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
        command = [*launch, str(folder / "train.py"), str(Path(__file__).parent), str(out), json.dumps(of_these)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    return lambda processes, *case: torch.load(folder / str(processes) / f"{'-'.join(map(str, case))}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("way", CASES)
def test_two_processes_equal_one_on_the_joined_batch(trained, way):
    joined, splits = CASES[way]
    one, one_logs, one_metrics = trained(1, way, joined, 1)
    for split in splits:
        two, two_logs, two_metrics = trained(2, way, *split)
        same = 2e-6 if way == "complement" else 1e-6
        assert max((one[name] - two[name]).abs().max().item() for name in one) <= same
        for ours, theirs in zip(two_logs, one_logs, strict=True):
            for name in {"loss", "loss_ce", "loss_el", "alpha", "beta", "complement_entropy"} & theirs.keys():
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
        for name in {"eval_loss", "eval_loss_el"} & one_metrics.keys():
            assert two_metrics[name] == pytest.approx(one_metrics[name], rel=1e-5), name


@pytest.mark.slow
def test_the_stock_trainer_multiplies_the_loss_by_the_processes(trained):
    """What the documentation says of transformers 5.23. If this fails, the Trainer has been fixed: update the text."""
    _, (one, *_), one_metrics = trained(1, "stock", 12, 1)
    _, (two, *_), two_metrics = trained(2, "stock", 6, 1)
    assert two["loss"] == pytest.approx(2 * one["loss"], rel=1e-4)
    assert two["grad_norm"] == pytest.approx(2 * one["grad_norm"], rel=1e-4)
    assert two_metrics["eval_loss"] > 1.9 * one_metrics["eval_loss"]
