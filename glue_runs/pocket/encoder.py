"""The encoder of the demo: its tokenizer, its configuration, and the folder of its weights.

``glue_runs.pocket.pretrain`` makes the weights, which are part of the package.
"""

from __future__ import annotations

from pathlib import Path

from transformers import BertConfig, BertTokenizer, PreTrainedTokenizerBase

from glue_runs.pocket.lexicon import PUNCTUATION, WORDS

__all__ = ["MAX_POSITIONS", "SPECIAL_TOKENS", "encoder_config", "encoder_path", "make_tokenizer"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_POSITIONS = 64


def encoder_path() -> Path:
    """The folder of the pre-trained encoder, for ``from_pretrained``."""
    return Path(__file__).parent / "encoder"


def make_tokenizer() -> PreTrainedTokenizerBase:
    """A BERT tokenizer whose tokens are exactly the words and punctuation of the lexicon."""
    tokens = (*SPECIAL_TOKENS, *PUNCTUATION, *WORDS)
    return BertTokenizer(vocab={token: place for place, token in enumerate(tokens)}, model_max_length=MAX_POSITIONS)


def encoder_config(vocab_size: int) -> BertConfig:
    """The configuration of the encoder: BERT with two layers and a hidden size of 128."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_POSITIONS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
