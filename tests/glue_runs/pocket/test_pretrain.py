from __future__ import annotations

from random import Random

import pytest
import torch

from glue_runs.pocket.encoder import make_tokenizer
from glue_runs.pocket.pretrain import IGNORED, corpus, masked
from glue_runs.pocket.rows import held_out


@pytest.fixture(scope="module")
def samples():
    return corpus(Random(0), 2_000)


def test_no_held_out_text_is_used(samples) -> None:
    assert len(samples) == 2_000
    assert not any(held_out(sample.texts) for sample in samples)
    assert not any(held_out((text,)) for sample in samples for text in sample.texts)


def test_there_are_single_related_and_unrelated_sentences(samples) -> None:
    for sample in samples:
        assert len(sample.texts) == 2 or sample.unrelated == IGNORED
    share = {kind: sum(sample.unrelated == kind for sample in samples) / 2_000 for kind in (IGNORED, 0, 1)}
    assert min(share.values()) > 0.1
    assert share[0] == pytest.approx(share[1], abs=0.1)


def test_no_sample_has_an_unknown_word(samples) -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer([" ".join(sample.texts) for sample in samples]).input_ids
    assert not any(tokenizer.unk_token_id in row for row in ids)


def test_masking_hides_and_swaps_chosen_tokens_only() -> None:
    tokenizer = make_tokenizer()
    ids = torch.randint(5, len(tokenizer), (400, 20), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = tokenizer.cls_token_id
    holes, labels = masked(ids, tokenizer.mask_token_id, torch.Generator().manual_seed(1))
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(holes[~chosen], ids[~chosen])
    assert not chosen[:, 0].any()
    assert chosen[:, 1:].float().mean() == pytest.approx(0.25, abs=0.02)
    assert (holes[chosen] == tokenizer.mask_token_id).float().mean() == pytest.approx(0.4, abs=0.03)
