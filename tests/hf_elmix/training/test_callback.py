from __future__ import annotations

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hf_elmix import MixingCallback, MixingSchedule


def at(step: int, steps: int) -> TrainerState:
    state = TrainerState()
    state.global_step, state.max_steps = step, steps
    return state


def begin(callback: MixingCallback, step: int, steps: int) -> tuple[float, float]:
    callback.on_step_begin(None, at(step, steps), TrainerControl())
    return float(callback.current_loss.alpha), float(callback.current_loss.beta)


def test_weights_depend_on_the_state_alone():
    schedule = MixingSchedule.parse("0-0.5")
    walked, dropped_in = MixingCallback(schedule), MixingCallback(schedule)
    for step in range(60):
        last = begin(walked, step, 60)
        assert last == schedule.weights(step, 60)
    assert begin(dropped_in, 59, 60) == last
    assert begin(walked, 0, 60) == (1, 1)  # a second training


def add(callback: MixingCallback, ce: float) -> None:
    """The terms of a batch with one label, in a step of two."""
    callback.add_terms(torch.tensor(2.0 * ce), torch.tensor(2.0), torch.tensor(2))


@pytest.mark.parametrize("given", [{"num_train_epochs": 3}, {"max_steps": 11}, {"gradient_accumulation_steps": 4}])
def test_it_counts_optimizer_steps(kit, logged, given):
    schedule = MixingSchedule.parse("0,0.5")
    trainer = kit.train(mixing=schedule, **given)
    steps = trainer.state.max_steps
    assert logged(trainer, "beta") == [schedule.weights(step, steps)[1] for step in range(steps)]


def test_terms_are_averaged_over_optimizer_steps_and_taken_once():
    callback = MixingCallback(MixingSchedule.parse("ce"))
    assert callback.take_terms() is None
    for step in range(4):
        begin(callback, step, 4)
        for _ in range(2):  # two accumulated batches, each with its share
            add(callback, step)
    assert callback.take_terms().tolist() == [3.0, 2.0]
    assert callback.take_terms() is None


def test_a_new_training_discards_the_terms_of_the_last():
    callback = MixingCallback(MixingSchedule.parse("ce"))
    add(callback, 1)
    callback.on_train_begin(None, at(0, 4), TrainerControl())
    assert callback.take_terms() is None


def stepped(callback: MixingCallback, *steps: int) -> None:
    for step in steps:
        begin(callback, step, 9)
        add(callback, step)


def test_a_resumed_training_averages_over_earlier_steps_too():
    left, resumed, whole = (MixingCallback("0-0.5") for _ in range(3))
    stepped(left, 0, 1, 2)
    resumed.on_train_begin(None, at(3, 9), TrainerControl())
    resumed.resume(*left.pending())
    stepped(resumed, 3, 4)
    stepped(whole, *range(5))
    assert resumed.take_terms().tolist() == whole.take_terms().tolist() == [2.0, 1.0]


def test_what_is_pending_is_what_was_not_logged():
    callback = MixingCallback("ce")
    assert callback.pending() == (None, 0)
    stepped(callback, 0, 1)
    callback.take_terms()
    assert callback.pending() == (None, 0)
    stepped(callback, 2, 4)
    terms, steps = callback.pending()
    assert (terms.tolist(), steps) == ([6.0, 2.0], 2)
    assert callback.take_terms().tolist() == [3.0, 1.0]  # asking has not changed anything


def test_resuming_with_nothing_pending_starts_afresh():
    callback = MixingCallback("ce")
    stepped(callback, 0, 1)
    callback.resume(None, 0)
    assert callback.take_terms() is None
    stepped(callback, 2)
    assert callback.take_terms().tolist() == [2.0, 1.0]


@pytest.mark.parametrize(("level", "warnings"), [("warning", 1), ("error", 0)])
def test_a_phase_without_a_step_is_a_warning(kit, caplog, level, warnings):
    kit.train(mixing="0,0.5", max_steps=4, log_level=level)
    assert caplog.text.count("No optimizer step falls into 1 of the 2 phases of the loss 'mix:0,0.5'") == warnings
    kit.train(mixing="0,0.5", max_steps=20)
    assert caplog.text.count("No optimizer step") == warnings
