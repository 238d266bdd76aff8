from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

from glue_runs.pocket.encoder import SPECIAL_TOKENS, encoder_path, make_tokenizer
from glue_runs.pocket.lexicon import PUNCTUATION, SYNONYMS, WORDS
from glue_runs.pocket.rows import make_rows
from glue_runs.tasks import TASKS


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(encoder_path())


def test_the_folder_is_small_and_has_a_card() -> None:
    assert sum(path.stat().st_size for path in encoder_path().iterdir()) < 3_000_000
    assert (encoder_path() / "README.md").read_text().startswith("---\n")


def test_the_stored_tokenizer_is_the_lexicons(tokenizer) -> None:
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()
    assert set(tokenizer.get_vocab()) == {*SPECIAL_TOKENS, *PUNCTUATION, *WORDS}


@pytest.mark.parametrize("task", TASKS)
def test_every_word_of_every_row_is_one_known_token(tokenizer, task) -> None:
    for split in ("train", *TASKS[task].splits):
        texts = [text for row in make_rows(task, split, 100) for text in row.texts]
        pieces = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]
        assert [" ".join(words) for words in pieces] == texts


def test_a_pair_is_two_segments(tokenizer) -> None:
    encoded = tokenizer("the nurse", "a dog .")
    assert tokenizer.decode(encoded["input_ids"]) == "[CLS] the nurse [SEP] a dog. [SEP]"
    assert encoded["token_type_ids"] == [0] * 4 + [1] * 4


def test_the_encoder_loads_in_full_precision_for_classification(tokenizer) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_path(), num_labels=3).eval()
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert model.config.vocab_size == len(tokenizer)
    logits = model(**tokenizer("the nurse sold a dog .", "who ?", return_tensors="pt")).logits
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


def share_near_a_synonym(encoder: BertModel, tokenizer) -> float:
    """Share of the words with synonyms whose nearest word, by its embedding, is one of them."""
    words = [word for word, same in SYNONYMS.items() if same]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(words))
    vectors = normalize(encoder.embeddings.word_embeddings.weight.detach()[ids])
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).argmax(1)
    return sum(words[near] in SYNONYMS[word] for word, near in zip(words, nearest, strict=True)) / len(words)


def test_the_stored_weights_have_learned_which_words_mean_the_same(tokenizer) -> None:
    stored = BertModel.from_pretrained(encoder_path())
    torch.manual_seed(0)
    assert share_near_a_synonym(stored, tokenizer) > 0.2
    assert share_near_a_synonym(BertModel(stored.config), tokenizer) < 0.1  # chance: one in sixty


def test_the_configuration_names_bert() -> None:
    config = json.loads((encoder_path() / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("bert", 2, 128)
