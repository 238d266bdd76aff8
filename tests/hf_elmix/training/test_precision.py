from __future__ import annotations

import json

import pytest
import torch

from hf_elmix.training import precision
from hf_elmix.training.precision import choose_precision, product_rates


@pytest.fixture
def rates(monkeypatch):
    """Pretend that there is no accelerator, and that products have some rates in float32 and bfloat16."""
    monkeypatch.setattr(precision, "has_accelerator", lambda: False)
    return lambda *values: monkeypatch.setattr(
        precision, "product_rates", lambda: dict(zip(("fp32", "bf16"), values, strict=True))
    )


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(56e9, 1700e9, "bf16"), (56e9, 0.5e9, "fp32"), (56e9, 60e9, "fp32"), (50e9, 100e9, "bf16")],
)
def test_auto_is_bfloat16_where_products_are_at_least_twice_as_fast_in_it(fp32, bf16, chosen, rates):
    rates(fp32, bf16)
    found, sentence = choose_precision("auto")
    assert found == chosen
    assert sentence.startswith(f"Precision: {chosen} (")
    assert f"{bf16 / 1e9:.3g} GFLOP/s in bf16" in sentence


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_precision_that_was_asked_for_needs_no_measurement(wanted, monkeypatch):
    monkeypatch.setattr(precision, "product_rates", lambda: pytest.fail("measured"))
    assert choose_precision(wanted) == (wanted, f"Precision: {wanted}")
    assert choose_precision(wanted, kept="bf16")[0] == wanted


@pytest.mark.parametrize("kept", ["fp32", "bf16"])
def test_auto_keeps_the_precision_of_earlier_runs(kept, rates):
    rates(1.0, 100.0)
    assert choose_precision("auto", kept)[0] == kept


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu_asks_the_gpu(able, chosen, monkeypatch):
    monkeypatch.setattr(precision, "has_accelerator", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    monkeypatch.setattr(precision, "product_rates", lambda: pytest.fail("measured"))
    assert choose_precision("auto")[0] == chosen


def test_rates_are_measured_once_for_a_machine_and_a_number_of_threads(tmp_path, monkeypatch):
    cache, measured = tmp_path / "cache" / "rates.json", []
    monkeypatch.setattr(precision, "_rate", lambda dtype: measured.append(dtype) or len(measured) * 1e9)
    assert product_rates(cache) == product_rates(cache) == {"fp32": 1e9, "bf16": 2e9}
    assert measured == [torch.float32, torch.bfloat16]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert product_rates(cache) == {"fp32": 3e9, "bf16": 4e9}
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert product_rates(cache) == {"fp32": 3e9, "bf16": 4e9}  # kept beside those of the other number
    assert len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fp32": 1}', "\x00"])
def test_a_damaged_cache_is_replaced(text, tmp_path):
    cache = tmp_path / "rates.json"
    cache.write_text(text)
    rates = product_rates(cache)
    assert all(rate > 1e6 for rate in rates.values())
    assert rates in json.loads(cache.read_text()).values()


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    assert set(product_rates(tmp_path / "file" / "rates.json")) == {"fp32", "bf16"}
