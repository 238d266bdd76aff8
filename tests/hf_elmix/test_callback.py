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
    return callback.alpha, callback.beta


def test_weights_depend_on_the_state_alone():
    schedule = MixingSchedule.parse("0-0.5")
    walked, dropped_in = MixingCallback(schedule), MixingCallback(schedule)
    for step in range(60):
        last = begin(walked, step, 60)
        assert last == schedule.weights(step, 60)
    assert begin(dropped_in, 59, 60) == last
    assert begin(walked, 0, 60) == (1, 1)  # a second training


def test_focus():
    callback = MixingCallback(MixingSchedule.parse("0.3@0 ce@0.5"))
    begin(callback, 0, 2)
    assert callback.focus == pytest.approx(0.3)
    begin(callback, 1, 2)
    assert callback.focus == 0


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
            callback.add_terms(torch.tensor([step, 1.0]))
    assert callback.take_terms().tolist() == [3.0, 2.0]
    assert callback.take_terms() is None


def test_a_new_training_forgets_the_terms_of_the_last():
    callback = MixingCallback(MixingSchedule.parse("ce"))
    callback.add_terms(torch.ones(2))
    callback.on_train_begin(None, at(0, 4), TrainerControl())
    assert callback.take_terms() is None


def test_a_text_will_do():
    assert MixingCallback("0,0.5").schedule == MixingSchedule.parse("0,0.5")
