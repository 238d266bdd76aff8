from __future__ import annotations

import json
import shutil

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    MPNetConfig,
    NystromformerConfig,
    OPTConfig,
    RobertaConfig,
    XLNetConfig,
)

from hf_elmix import UsageError
from hf_elmix.text.limits import NONE, limits_of, tokens_for
from hf_elmix.text.models import find_model, load_tokenizer
from hf_elmix.text.tasks import TextTask

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 60}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}
TASK = TextTask("mine", ("text",), ("0", "1"))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (BertConfig(**SMALL, max_position_embeddings=20), 20),
        (RobertaConfig(**SMALL, max_position_embeddings=20), 18),
        (MPNetConfig(**SMALL, max_position_embeddings=20), 18),
        (NystromformerConfig(**SMALL, max_position_embeddings=20), 20),
        (OPTConfig(**SMALL, ffn_dim=8, word_embed_proj_dim=8, max_position_embeddings=20), 20),
        (GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=20, vocab_size=60, bos_token_id=1, eos_token_id=2), 20),
        (
            DebertaV2Config(**SMALL, max_position_embeddings=20, position_biased_input=False, relative_attention=True),
            NONE,
        ),
        (XLNetConfig(d_model=8, n_layer=1, n_head=2, d_inner=8, vocab_size=60), NONE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_reads_as_many_tokens_as_it_says_and_no_more(config, length, tmp_path):
    config.pad_token_id = 0 if config.pad_token_id is None else config.pad_token_id
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    assert limits_of(find_model(str(tmp_path))) == (length, 60)
    with torch.no_grad():
        model(input_ids=torch.full((1, min(length, 50)), 5))
        if length != NONE:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, length + 1), 5))


def tokens_of(texts, folder, max_length=30):
    rows = DatasetDict(train=Dataset.from_dict({"text": texts}))
    return tokens_for(find_model(str(folder)), load_tokenizer(str(folder)), TASK, rows, max_length)


@pytest.mark.parametrize("said", [40, None])
def test_rows_are_truncated_to_what_the_tokenizer_and_the_model_read(encoder, tmp_path, said):
    folder = shutil.copytree(encoder, tmp_path / "model")
    options = json.loads((folder / "tokenizer_config.json").read_text())
    options.pop("model_max_length")
    (folder / "tokenizer_config.json").write_text(json.dumps(options | ({"model_max_length": said} if said else {})))
    with pytest.warns(UserWarning, match=f"truncated to {said or 64} tokens, the most that"):
        tokens, length = tokens_of(["the film " * 90], folder, 1000)
    assert len(tokens["train"]["input_ids"][0]) == length == (said or 64)
    assert tokens_of(["the film " * 90], folder, 20)[1] == 20


def test_a_tokenizer_with_other_tokens_than_the_model_is_refused(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    tokenizer = load_tokenizer(encoder)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    assert tokens_of(["the film"], folder)
    with pytest.raises(UsageError, match="the 293 tokens of its model, but the split 'train' has token 293"):
        tokens_of(["the film", "the zebra"], folder)
