from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_elmix.errors import UsageError
from hf_elmix.losses.schedules import REGIMES, MixingSchedule, Phase

parse = MixingSchedule.parse


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 7, 19, 20, 21, 96, 97, 100, 690, 1000, 12276])
def test_regimes_follow_the_papers_rules_at_every_step(steps):
    slow = [(1, 1), (1, 1.25), (1, 5 / 3), (1, 2.5), (1, 5), (0, 1)]
    ce, el, constant, late, gradual = (parse(name) for name in ("ce", "el", "0", "0,0.5", "0-0.5"))
    for step in range(steps):
        assert ce.weights(step, steps) == (1, 0)
        assert el.weights(step, steps) == (0, 1)
        assert constant.weights(step, steps) == (1, 1)
        assert late.weights(step, steps) == ((0, 1) if 20 * step >= 19 * steps else (1, 1))
        assert gradual.weights(step, steps) == slow[step * 6 // steps]


def test_after_the_last_step_the_last_phase_stays():
    assert parse("0-0.5").weights(600, 600) == (0, 1)


def test_boundaries_do_not_suffer_from_floating_point():
    assert 0.07 * 100 > 7  # which would start the phase one step late
    assert parse("ce@0 el@0.07").weights(6, 100) == (1, 0)
    assert parse("ce@0 el@0.07").weights(7, 100) == (0, 1)
    assert [parse("0@0 0.5@1/3").weights(step, 3) for step in range(3)] == [(1, 1), (0, 1), (0, 1)]


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("0@0 0.3@0.5 0.5@0.9", [("0", 1, 1), ("1/2", 1, "5/2"), ("9/10", 0, 1)]),
        ("1:0@0 1:2@5/6", [("0", 1, 0), ("5/6", 1, 2)]),
        ("2:0.5 0.25", [("0", 2, "1/2"), ("1/2", 1, 2)]),
        ("CE@0 El@.9", [("0", 1, 0), ("9/10", 0, 1)]),
        ("  0.5 ", [("0", 0, 1)]),
        (0.25, [("0", 1, 2)]),
        (0, [("0", 1, 1)]),
        (0.00001, [("0", 1, Fraction(50000, 49999))]),
        (Fraction(1, 3), [("0", 1, 3)]),
        (np.float32(0.25), [("0", 1, 2)]),
        (np.int64(0), [("0", 1, 1)]),
    ],
)
def test_general_form(text, phases):
    expected = tuple(Phase(Fraction(start), Fraction(alpha), Fraction(beta)) for start, alpha, beta in phases)
    assert parse(text).phases == expected


@pytest.mark.parametrize("name", REGIMES)
def test_names_round_trip_as_they_were_typed(name):
    assert parse(name).mixing == name
    assert str(parse(name)) == (name if name in ("ce", "el") else f"mix:{name}")


@pytest.mark.parametrize("text", ["0 0.25 0.5", "0.3", "1/3", "0@0 0.5@5/6", "2:1@0 0.1@1/7", "1:3.14159 0.25"])
def test_general_form_round_trips_as_it_was_typed(text):
    assert parse(text).mixing == text


weights = st.tuples(st.fractions(0, 100, max_denominator=997), st.fractions(0, 100, max_denominator=997)).filter(any)
starts = st.lists(st.fractions(0, 1, max_denominator=9973).filter(lambda f: 0 < f < 1), unique=True, max_size=6)


@given(starts, st.data())
def test_every_schedule_round_trips(starts, data):
    phases = [Phase(start, *data.draw(weights)) for start in [Fraction(0), *sorted(starts)]]
    schedule = MixingSchedule(tuple(phases))
    assert parse(str(schedule)) == parse(schedule.mixing) == schedule
    assert parse(schedule) is schedule


@given(starts, st.integers(1, 5000), st.data())
def test_weights_are_those_of_the_last_phase_begun(starts, steps, data):
    phases = [Phase(start, Fraction(1), Fraction(k)) for k, start in enumerate([Fraction(0), *sorted(starts)])]
    step = data.draw(st.integers(0, steps))
    begun = [phase for phase in phases if Fraction(step, steps) >= phase.start]
    assert MixingSchedule(tuple(phases)).weights(step, steps) == (1, float(begun[-1].beta))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0-0.6", ["'0-0.6'", "'0,0.5'", "Did you mean '0-0.5'?"]),
        ("cee", ["'cee'", "Did you mean 'ce'?"]),
        ("0.7", ["focus in [0, 0.5], but got 0.7"]),
        ("", ["''", "one of 'ce'"]),
        ("0 0.5@0.5", ["every phase has a start"]),
        ("0@0.1 0.5@0.5", ["first phase to start at 0", "0.1, 0.5"]),
        ("0@0 0.5@0.5 0.3@0.5", ["grow"]),
        ("0@0 0.5@1", ["below 1"]),
        ("0:0", ["not both 0"]),
        ("-0.1", ["'-0.1'"]),
        ("0@0 0.5@0.5@0.6", ["'0.5@0.6'"]),
        ("1e999999999", ["'1e999999999'"]),
        ("1/0", ["'1/0'"]),
        ("nan", ["'nan'"]),
        (None, ["None"]),
    ],
)
def test_bad_text_is_refused_with_what_is_accepted(text, parts):
    with pytest.raises(UsageError) as error:
        parse(text)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("step", "steps"), [(-1, 10), (0, 0), (3, -1)])
def test_steps_outside_training_are_refused(step, steps):
    with pytest.raises(ValueError, match=f"step={step}, max_steps={steps}"):
        parse("0").weights(step, steps)


def test_schedules_are_values():
    assert hash(parse("0.5")) == hash(parse("el"))
    with pytest.raises(AttributeError):
        parse("0").phases = ()


def test_phases_of_plain_numbers_are_those_that_are_parsed():
    assert MixingSchedule([Phase(0, 1, 1), Phase(0.9, 0, 1)]) == parse("0@0 0.5@0.9")
    assert MixingSchedule((Phase(0, 1, 0.5),)).mixing == "1:0.5"


@pytest.mark.parametrize(
    ("mixing", "steps", "left"),
    [("0,0.5", 4, "0"), ("0,0.5", 20, "0,0.5"), ("0-0.5", 6, "0-0.5"), ("0 0.25 0.5 ce", 2, "0@0 0.5@0.5")],
)
def test_phases_into_which_no_step_falls(mixing, steps, left):
    schedule = MixingSchedule.parse(mixing)
    trained = schedule.trained(steps)
    assert trained == MixingSchedule.parse(left)
    assert [trained.at(step, steps) for step in range(steps)] == [schedule.at(step, steps) for step in range(steps)]
    empty = len(schedule.phases) - len(trained.phases)
    assert bool(schedule.untrained(steps)) == bool(empty)
    assert not empty or f"falls into {empty} of the {len(schedule.phases)} phases" in schedule.untrained(steps)
