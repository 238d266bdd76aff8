"""One step of the stock Trainer beside one of MixedLossTrainer(mixing="ce"), for every model class of transformers.

    python tests/sweeps/sweep_models.py --results build/models.jsonl --page hf_elmix/docs/pages/models.md

Each class is built tiny, by shrinking the defaults of its configuration, and gets random inputs that its signature
asks for. Classes that cannot be built or fed in this way are counted, not hidden. Finished classes are not repeated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import gc
import inspect
import itertools
import json
import logging
import re
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_elmix import MixedLossTrainer, UsageError

ROWS, LENGTH, WORDS, CLASSES, LARGEST = 4, 8, 64, 3, 20_000_000
SECONDS = 60
# Names of settings, and the number that makes a model small; the first that matches counts.
SIZES = (
    (r"vocab_size|entity_vocab|type_vocab_size_large", WORDS),
    (
        r"(^|_)(n_group|topk_group|num_groups|groups?|num_codebooks|num_feature_levels|num_conv_pos_embedding_groups)$",
        2,
    ),
    (r"num_experts_per_tok|moe_top_?k|^top_k$|num_selected_experts|moe_k", 2),
    (r"experts", 4),
    (r"heads?$|n_head|attention_heads", 2),
    (r"layers?$|n_layer|depth$|num_blocks|num_stages_x|layer_count", 2),
    (r"head_dim|d_kv|kv_channels|head_size|qk_rope|qk_nope|v_head", 8),
    (r"lora_rank", 8),
    (
        r"embedding_size$|hidden_size|d_model|n_embd|embed_dim|^dim$|emb_dim|hidden_dim|projection_dim|^width$|d_embed",
        32,
    ),
    (r"intermediate|ffn|d_ff|n_inner|mlp_dim|inner_dim|linear_units|fc_size|feed_forward", 32),
    (
        r"max_position|n_positions|max_seq|max_source|max_target|seq_length|max_sequence_length|n_ctx|context_length",
        64,
    ),
    (r"image_size|^img_size|crop_size|input_size", 32),
    (r"patch_size", 8),
    (r"num_frames", 2),
    (r"num_labels", CLASSES),
    (r"num_queries|query_tokens|num_latents|resampler", 4),
    (r"(hidden|embed|channel|conv|feature|out|in)_?(dims?|sizes?|channels)$", 32),
)
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
TOKENS = (
    "TokenClassification",
    "MaskedLM",
    "CausalLM",
    "LMHead",
    "Generation",
    "Seq2Seq",
    "PreTraining",
    "DoubleHeads",
)
TOKENS += ("Text2Text", "ImageTextToText", "VisionText2Text", "Decoder", "SpanBasedLM", "SpadeE", "MultimodalLM")


def shrunk(settings: dict[str, Any], layers: int) -> dict[str, Any]:
    """The settings of a small model of the same kind."""
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and name not in ("id2label", "label2id", "rope_parameters", "rope_scaling"):
            value = shrunk(value, layers)
        elif name == "layer_types" and isinstance(value, list):
            value = value[:layers]
        elif name in ENDS and not (isinstance(value, int) and 0 <= value < 5):
            value = ENDS[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int) and value >= WORDS:
            value = 3
        elif isinstance(value, int) and not isinstance(value, bool) and "feat_extract" not in name:
            size = next((size for pattern, size in SIZES if re.search(pattern, name)), value)
            value = (
                min(value, layers if size == 2 and re.search("layer|depth", name) else size) if value > 0 else value
            )
        elif name in ("depths", "layers") and isinstance(value, list | tuple):
            value = [1] * len(value)
        elif isinstance(value, list | tuple) and value and all(type(part) is int and part >= 32 for part in value):
            value = [32] * len(value) if re.search("dim|size|channel|width", name) else value
        small[name] = value
    return small


def tiny(kind: type[PreTrainedModel], given: Mapping[str, Any] | None = None) -> Iterator[PreTrainedModel]:
    """Small models of a class, in training mode, as long as they can be built; with given settings, if any."""
    drop = {"transformers_version", "architectures", "model_type", "id2label", "label2id", "torch_dtype", "dtype"}
    defaults = kind.config_class().to_dict()
    for layers in (2, 1, 4):
        settings = {name: value for name, value in shrunk(defaults, layers).items() if name not in drop}
        if "output_router_logits" in settings:
            settings["output_router_logits"] = True
        settings = {**ENDS, **settings}
        for more in ({}, {"is_decoder": True}, {"num_labels": 1}):
            with contextlib.suppress(Exception):
                config = kind.config_class(**{**settings, "num_labels": CLASSES, **more, **(given or {})})
                with torch.device("meta"):
                    size = sum(part.numel() for part in kind(copy.deepcopy(config)).parameters())
                if size <= LARGEST:
                    set_seed(0)
                    yield kind(config).train()


def batches(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    """Inputs and labels that the model might take."""
    name, parameters = type(model).__name__, inspect.signature(model.forward).parameters
    config = model.config
    parts = [config, *(value for value in vars(config).values() if isinstance(value, transformers.PreTrainedConfig))]
    find = lambda key, default: next((v for p in parts if (v := getattr(p, key, None)) is not None), default)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    side, channels = find("image_size", 32), find("num_channels", 3)
    side = side if isinstance(side, int) else side[0]
    mels = find("num_mel_bins", find("feature_size", 80))
    words = min(find("vocab_size", WORDS), WORDS)
    shape = (ROWS, 2, LENGTH) if "MultipleChoice" in name else (ROWS, LENGTH)
    ids = torch.randint(5, words, shape, generator=generator) if words > 5 else torch.zeros(shape, dtype=torch.long)
    end = find("eos_token_id", 2)
    ids[..., -1] = end if isinstance(end, int) and end < words else 2
    random = lambda *shape: torch.randn(ROWS, *shape, generator=generator)  # noqa: E731
    frames = find("num_frames", 2)
    choices = {
        "input_ids": [ids],
        "pixel_values": [random(channels, side, side), random(frames, channels, side, side)],
        "input_values": [random(8000), random(find("max_length", 64), mels)],
        "input_features": [random(mels, 2 * find("max_source_positions", 32)), random(64, mels)],
    }
    main = [part for part in choices if part in parameters]
    extra = {}
    if "bbox" in parameters:
        extra["bbox"] = torch.zeros(*shape, 4, dtype=torch.long)
    if "decoder_input_ids" in parameters and "input_ids" not in parameters:
        extra["decoder_input_ids"] = ids
    classes = torch.arange(ROWS) % min(2, find("num_labels", 2))
    text = ids if "TokenClassification" not in name and "Spade" not in name else ids % CLASSES
    of_tokens = text.masked_fill(torch.rand(text.shape, generator=generator) < 0.3, -100)
    of_tokens[:, 0] = text[:, 0]
    labels = [of_tokens, classes] if any(part in name for part in TOKENS) else [classes, of_tokens]
    for count in range(1, len(main) + 1):
        for names in itertools.combinations(main, count):
            for values in itertools.product(*(choices[part] for part in names)):
                for target in labels:
                    yield {**dict(zip(names, values, strict=True)), **extra, "labels": target}


def step(kind: type[Trainer], model: nn.Module, batch: dict[str, torch.Tensor], folder: str, **more: Any) -> Any:
    """The loss in evaluation, the logged loss and the weights after a step of gradient descent on the batch."""
    rows = [{name: value[k] for name, value in batch.items()} for k in range(ROWS)]
    args = TrainingArguments(
        folder, max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0, logging_steps=1, report_to="none",
        per_device_train_batch_size=ROWS, disable_tqdm=True, use_cpu=True, save_strategy="no",
        prediction_loss_only=True, remove_unused_columns=False,
        train_sampling_strategy="sequential", lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = kind(copy.deepcopy(model), args, train_dataset=rows, eval_dataset=rows, **more)
    trainer.remove_callback(PrinterCallback)
    set_seed(1)
    evaluated = trainer.evaluate().get("eval_loss", 0.0)  # none for a model with several label inputs
    set_seed(1)
    trainer.train()
    weights = torch.cat([part.detach().flatten().float() for part in trainer.model.parameters()])
    return evaluated, next(log["loss"] for log in trainer.state.log_history if "loss" in log), weights


def compared(model: nn.Module, batch: dict[str, torch.Tensor], folder: str) -> tuple[str, str]:
    """What became of a model that the stock Trainer trains: equal, refused or different, and why."""
    evaluated, loss, weights = step(Trainer, model, batch, folder)
    before = torch.cat([part.detach().flatten().float() for part in model.parameters()])
    if not weights.isfinite().all() or torch.equal(weights, before):
        return "stock fails", "the step changes nothing or overflows"
    try:
        ours = step(MixedLossTrainer, model, batch, folder, mixing="ce")
    except UsageError as error:
        return "refused", str(error)
    moved = (weights - before).norm()
    apart = [abs(ours[0] - evaluated), abs(ours[1] - loss), ((ours[2] - weights).norm() / moved).item()]
    if max(apart[0] / (1 + evaluated), apart[1] / (1 + loss), apart[2]) <= 1e-3:
        return "equal", ""
    numbers = (evaluated, ours[0], loss, ours[1], apart[2])
    return "different", "eval_loss {:.4f} {:.4f}, loss {:.4f} {:.4f}, step {:.2g}".format(*numbers)


def outcome(kind: type[PreTrainedModel], folder: str) -> tuple[str, str]:
    """What became of a class, and why."""
    problem = ("not built", "")
    for model in tiny(kind):
        for batch in batches(model):
            set_seed(2)
            try:
                given = copy.deepcopy(model)(**batch)
                loss = given["loss"] if isinstance(given, dict) else None
            except Exception as error:  # any model may fail in any way
                problem = problem if problem[0] == "stock fails" else ("not fed", f"{error!r}"[:120])
                continue
            if not isinstance(loss, torch.Tensor) or not loss.isfinite().all():
                problem = ("not fed", "no loss")
                continue
            try:
                found, why = compared(model, batch, folder)
            except Exception as error:  # the stock Trainer's, or ours that is no refusal
                ours = "hf_elmix" in str(error.__traceback__ and traceback_files(error))
                problem = ("different" if ours else "stock fails", f"{type(error).__name__}: {error}"[:160])
                if ours:
                    return problem
                continue
            if found == "different" and batch["labels"].dim() == 2:
                first = batch["labels"].clone()
                first[:, 0] = -100
                again, _ = compared(model, {**batch, "labels": first}, folder)
                found = "equal but for the count" if again == "equal" else found
            return found, why
    return problem


def traceback_files(error: BaseException) -> list[str]:
    """The files through which an error came."""
    files, part = [], error.__traceback__
    while part is not None:
        files.append(part.tb_frame.f_code.co_filename)
        part = part.tb_next
    return files


def classes() -> Iterator[type[PreTrainedModel]]:
    """The model classes of transformers that take labels."""
    for name in sorted(dir(transformers)):
        with contextlib.suppress(Exception):
            kind = getattr(transformers, name)
            if issubclass(kind, PreTrainedModel) and kind.config_class is not None:
                yield from [kind] if "labels" in inspect.signature(kind.forward).parameters else []


def alarm(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def sweep(results: Path, only: str) -> None:
    """Try each class that has no result yet, and append its result, a line of JSON."""
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["class"] for line in results.read_text().splitlines()} if results.exists() else set()
    signal.signal(signal.SIGALRM, alarm)
    with tempfile.TemporaryDirectory() as folder, results.open("a") as file:
        for kind in classes():
            if kind.__name__ in done or not re.search(only, kind.__name__):
                continue
            gc.freeze()  # the Trainer collects garbage several times, and all of transformers is loaded by now
            signal.alarm(SECONDS)
            try:
                found, why = outcome(kind, folder)
            except Exception as error:
                found, why = "not built", f"{type(error).__name__}: {error}"[:120]
            signal.alarm(0)
            print(f"{kind.__name__}: {found} {why[:100]}", flush=True)
            file.write(json.dumps({"class": kind.__name__, "found": found, "why": why}) + "\n")
            file.flush()


def page(results: Path) -> str:
    """The page of the documentation: how many classes of each head had each outcome, and which were not equal."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    counts = collections.Counter((head(line["class"]), line["found"]) for line in lines)
    heads = sorted({name for name, _ in counts}, key=lambda name: (name == "other", name))
    total = collections.Counter(line["found"] for line in lines)
    rows = [[name, *(str(counts[name, found] or "") for found in OUTCOMES)] for name in heads]
    rows += [["all", *(str(total[found]) for found in OUTCOMES)]]
    table = ["| " + " | ".join(row) + " |" for row in [["head", *OUTCOMES], ["---"] * (1 + len(OUTCOMES)), *rows]]
    names = sorted(line["class"] for line in lines)
    text = [PAGE.format(version=transformers.__version__, first=names[0], last=names[-1]), *table, ""]
    for found, words in OUTCOMES.items():
        if words and total[found]:
            names = [f"`{line['class']}`" for line in lines if line["found"] == found]
            text += [f"{words}: {', '.join(names)}.", ""]
    return "\n".join(text)


def head(name: str) -> str:
    """The kind of task in the name of a class."""
    return next((found for found in HEADS if found in name), "other")


PAGE = """# Which models train as in the Trainer

One step of `Trainer` beside one of `MixedLossTrainer(mixing="ce")`, for the model classes of transformers {version}
that take labels (`{first}` to `{last}`), each built tiny, with random weights and inputs.
*Equal* means the same `eval_loss`, logged loss and weights, up to 1e-3 of the step. A number in the column
*different* would be a bug: a class that is trained on another loss without an error. The table is written by
`tests/sweeps/sweep_models.py`, which builds models and inputs by general rules. Where that fails (*not built*,
*not fed*), nothing is known, and the [check on the first batch](trainer.md#supported-models) is the safeguard.
"""
OUTCOMES = {
    "equal": "",
    "equal but for the count": "Equal but for the count (the Trainer also counts the first label of each row, "
    "which nothing predicts)",
    "refused": "Refused",
    "stock fails": "The stock Trainer fails",
    "different": "Different",
    "not fed": "",
    "not built": "",
}
HEADS = ("SequenceClassification", "TokenClassification", "MultipleChoice", "MaskedLM", "CausalLM", "LMHead")
HEADS += ("ConditionalGeneration", "QuestionAnswering", "ImageClassification", "AudioClassification", "CTC", "XVector")
HEADS += ("PreTraining", "Detection", "Segmentation")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="a file with a line of JSON for each class")
    parser.add_argument("--only", default="", help="a regular expression for names of classes")
    parser.add_argument("--page", type=Path, help="the page of the documentation to write")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    sweep(given.results, given.only)
    if given.page:
        given.page.write_text(page(given.results), encoding="utf-8")
