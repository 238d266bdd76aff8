"""Small stand-ins for the models and data sets that the tests of other libraries load from the Hub.

Models have random weights, and are laid out as the Hub's cache, so that `from_pretrained` finds them offline. Data
sets are made when they are loaded. Every tokenizer but that of BERT knows the 256 bytes and ChatML.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from glue_runs.pocket.encoder import encoder_path

sys.path.append(str(Path(__file__).parents[1] / "sweeps"))
from sweep_models import tiny  # noqa: E402

COMMIT = "0" * 40
# The class of a model is part of most names; these are the others.
CLASSES = {
    "bert-base-cased": "BertForSequenceClassification",
    "bert-base-uncased": "BertForSequenceClassification",
    "cross-encoder-testing/reranker-bert-tiny-gooaq-bce": "BertForSequenceClassification",
    "google-bert/bert-base-cased-finetuned-mrpc": "BertForSequenceClassification",
    "google-bert/bert-base-uncased": "BertForSequenceClassification",
    "google-t5/t5-small": "T5ForConditionalGeneration",
    "hf-internal-testing/tiny-random-gpt2": "GPT2LMHeadModel",
    "nickypro/tinyllama-15M": "LlamaForCausalLM",
    "openai-community/gpt2": "GPT2LMHeadModel",
    "peft-internal-testing/opt-125m": "OPTForCausalLM",
    "peft-internal-testing/tiny-dummy-qwen2": "Qwen2ForCausalLM",
    "roneneldan/TinyStories-33M": "LlamaForCausalLM",
}
IN_NAME = re.compile(r"/tiny-(?:random-)?([A-Za-z0-9_]+(?:ForCausalLM|LMHeadModel))")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|bos|>", "<|im_end|>", "<|im_start|>", "<unk>")
WORDS = itertools.product(("film", "plot", "cast"), ("superb", "dull"))
FILMS = 3 * [(f"the {thing} was {word} .", word == "superb") for thing, word in WORDS]
FILMS = FILMS[:17]  # as many as the rows of TRL's small data set, which its tests count


def class_of(name: str) -> str | None:
    """The class of a model on the Hub, if a stand-in can be made for it."""
    found = IN_NAME.search(name)
    return CLASSES.get(name) or (found.group(1) if found else None)


def build(name: str, cache: Path) -> bool:
    """Put a stand-in for a model and its tokenizer into a cache of the Hub; whether that could be done."""
    repository = cache / f"models--{name.replace('/', '--')}"
    kind = getattr(transformers, class_of(name) or "", None)
    if repository.exists() or kind is None:
        return kind is not None
    tokenizer = AutoTokenizer.from_pretrained(encoder_path()) if "Bert" in kind.__name__ else byte_tokenizer()
    model = next(tiny(kind, {"vocab_size": len(tokenizer), "num_labels": 2}), None)
    if model is None:
        return False
    if model.can_generate():
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    folder = repository / "snapshots" / COMMIT
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return True


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes. Token 0 is padding, 1 the beginning and 2 the end of a text."""
    words = {word: number for number, word in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2],
        unk_token=SPECIAL[4], additional_special_tokens=[SPECIAL[3]], chat_template=CHATML, model_max_length=512,
    )  # fmt: skip


def rows_of(name: str, config: str | None) -> list[dict[str, Any]] | None:
    """Rows of a stand-in for a data set on the Hub, or None if there is none."""
    say = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    ends = [(text.rsplit(" ", 2)[0], " " + text.rsplit(" ", 2)[1]) for text, _ in FILMS]
    zen: dict[str, list[dict[str, Any]]] = {
        "standard_language_modeling": [{"text": text} for text, _ in FILMS],
        "standard_prompt_completion": [{"prompt": one, "completion": two} for one, two in ends],
        "standard_implicit_prompt_preference": [{"chosen": one + two, "rejected": one} for one, two in ends],
        "conversational_language_modeling": [
            {"messages": say("user", one) + say("assistant", two)} for one, two in ends
        ],
        "conversational_prompt_completion": [
            {"prompt": say("user", one), "completion": say("assistant", two)} for one, two in ends
        ],
    }
    if name == "trl-internal-testing/zen":
        return zen.get(config or "")
    others: dict[str, list[dict[str, Any]]] = {
        "fka/awesome-chatgpt-prompts": [{"act": text, "prompt": text} for text, _ in FILMS],
        "nyu-mll/glue": [{"sentence": text, "label": int(good), "idx": k} for k, (text, good) in enumerate(FILMS)],
        "openai/gsm8k": [{"question": one, "answer": two} for one, two in ends],
        "Salesforce/wikitext": [{"text": " ".join(one for one, _ in FILMS)} for _ in range(40)],
        "sentence-transformers/stsb": [
            {"sentence1": one, "sentence2": two, "score": int("superb" in two)} for one, two in ends
        ],
        "stanfordnlp/imdb": [{"text": text, "label": int(good)} for text, good in FILMS],
        "ybelkada/english_quotes_copy": [{"quote": text} for text, _ in FILMS],
    }
    return others.get(name)


def write_rows(name: str, config: str | None, folder: Path) -> dict[str, str] | None:
    """Write the rows of a data set, the same for each split, and return the files by split."""
    rows = rows_of(name, config)
    if rows is None:
        return None
    file = folder / f"{name.replace('/', '--')}--{config}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict.fromkeys(("train", "validation", "test"), str(file))
