from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_elmix.losses.base import Schedule
from hf_elmix.losses.registry import parse_loss
from hf_elmix.losses.schedules import REGIMES, MixingSchedule, Phase
from hf_elmix.study.shared_prefixes import Branch, Segment, cost, plan, prefix, roots, share
from hf_elmix.study.spec import Method, RunKey

PAPER = ("ce", "0", "0,0.5", "0-0.5")

# Others may be using the machine: how long an example takes says nothing.
unhurried = settings(deadline=None, max_examples=150)

# Few distinct starts and weights, so that schedules often have a beginning in common, and phases often hold no step.
STARTS = st.sets(st.sampled_from([Fraction(k, n) for n in (3, 4, 20, 97) for k in range(1, n)]), max_size=4)
WEIGHTS = st.sampled_from([(1, 0), (1, 1), (1, Fraction(5, 3)), (0, 1)])


@st.composite
def losses(draw: st.DrawFn) -> MixingSchedule:
    starts = [Fraction(0), *sorted(draw(STARTS))]
    return MixingSchedule(tuple(Phase(start, *draw(WEIGHTS)) for start in starts))


METHODS = st.lists(losses(), max_size=6).map(lambda given: {f"m{k}": one for k, one in enumerate(given)})
STEPS = st.integers(1, 45)


def named(*texts: str) -> dict[str, Schedule]:
    return {text: parse_loss(text) for text in texts}


def walked(loss: MixingSchedule, steps: int) -> tuple[tuple[float, float], ...]:
    """The weights of every step, one after the other."""
    return tuple(loss.weights(step, steps) for step in range(steps))


def line(segment: Segment | None) -> list[Segment]:
    """A segment and all before it, from the untrained model on."""
    return [] if segment is None else [*line(segment.parent), segment]


@pytest.mark.parametrize(("steps", "trained"), [(600, 1730), (60, 173), (6000, 17300), (1740, 5017)])
def test_the_papers_four_regimes_cost_less_than_three_runs(steps, trained):
    # CE and F=0 one run each; F=0-0.5 leaves F=0 after a sixth of it, F=0,0.5 after 0.95: 2 + 5/6 + 0.05 = 2.883.
    segments = plan(named(*PAPER), steps)
    assert cost(segments) == trained == 2 * steps + steps * 5 // 6 + steps // 20
    assert trained / steps == pytest.approx(2.883, abs=5e-4)


def test_the_papers_plan_by_hand():
    first = Segment(0, 100, ("0", "0,0.5", "0-0.5"))
    middle = Segment(100, 570, ("0", "0,0.5"), first)
    expected = [
        Segment(0, 600, ("ce",)),
        first,
        middle,
        Segment(570, 600, ("0",), middle),
        Segment(570, 600, ("0,0.5",), middle),
        Segment(100, 600, ("0-0.5",), first),
    ]
    segments = plan(named(*PAPER), 600)
    assert segments == expected
    assert [segment.parent for segment in segments] == [segment.parent for segment in expected]  # == leaves it out


@pytest.mark.parametrize("order", [1, -1])
def test_a_thousand_schedules_that_part_one_by_one(order):
    count = 1000
    methods = {
        f"m{k}": MixingSchedule((Phase(Fraction(0), 1, 0), Phase(Fraction(k, count + 1), 1, 1)))
        for k in range(1, count + 1)
    }
    segments = plan(dict(list(methods.items())[::order]), 10 * (count + 1))
    assert len(segments) == 2 * count - 1
    # Method k leaves cross entropy after 10 k steps: the common part ends there for the last one.
    assert cost(segments) == 10 * count + sum(10 * (count + 1) - 10 * k for k in range(1, count + 1))
    root = Branch("a", 0, tuple(methods), tuple(methods))
    assert len(root.children(segments)) == 2
    assert len({*segments}) == len(segments)
    assert len(repr(segments[-1])) < 100


@unhurried
@given(METHODS, STEPS)
def test_segments_tile_every_methods_training_and_no_step_is_in_two(methods, steps):
    segments = plan(methods, steps)
    for name, loss in methods.items():
        its = [segment for segment in segments if name in segment.methods]
        assert line(its[-1]) == its
        assert [segment.start for segment in its] == [0, *(segment.stop for segment in its[:-1])]
        assert its[-1].stop == steps
        for segment in its:
            assert segment.start < segment.stop
            first = methods[segment.methods[0]]
            for step in range(segment.start, segment.stop):
                assert first.weights(step, steps) == loss.weights(step, steps)
    # A trie of the sequences of weights, by brute force: each of its edges is one step that somebody must train.
    prefixes = {walked(one, steps)[:end] for one in methods.values() for end in range(1, steps + 1)}
    assert cost(segments) == len(prefixes)


@unhurried
@given(METHODS, STEPS)
def test_a_plan_names_no_method_twice_and_parents_before_children(methods, steps):
    segments = plan(methods, steps)
    for k, segment in enumerate(segments):
        assert len(set(segment.methods)) == len(segment.methods) > 0
        assert list(segment.methods) == [name for name in methods if name in segment.methods]
        if segment.parent is not None:
            assert segment.parent in segments[:k]
            assert set(segment.methods) < set(segment.parent.methods)
            assert segment.start == segment.parent.stop
    for step in range(steps):
        there = [name for segment in segments if segment.start <= step < segment.stop for name in segment.methods]
        assert sorted(there) == sorted(methods)


@unhurried
@given(METHODS, STEPS)
def test_sharing_neither_costs_more_than_none_nor_saves_a_method(methods, steps):
    distinct = {walked(one, steps) for one in methods.values()}
    total = cost(plan(methods, steps))
    assert (steps if methods else 0) <= total <= steps * len(distinct)


def test_one_step_has_only_first_weights():
    assert plan(named(*PAPER), 1) == [Segment(0, 1, ("ce",)), Segment(0, 1, ("0", "0,0.5", "0-0.5"))]


def test_two_steps():
    # 0.95 of two steps is after both; of the six phases the first and the fourth hold a step.
    first = Segment(0, 1, ("0", "0,0.5", "0-0.5"))
    assert plan(named(*PAPER), 2) == [
        Segment(0, 2, ("ce",)),
        first,
        Segment(1, 2, ("0", "0,0.5"), first),
        Segment(1, 2, ("0-0.5",), first),
    ]


def test_one_schedule_under_two_names_is_trained_once():
    methods = {"one": parse_loss("0-0.5"), "other": parse_loss(REGIMES["0-0.5"])}
    assert plan(methods, 60) == [Segment(0, 60, ("one", "other"))]


def test_schedules_that_differ_in_no_step_are_trained_once():
    assert plan(named("0", "0@0 0.5@0.99"), 50) == [Segment(0, 50, ("0", "0@0 0.5@0.99"))]


def test_methods_that_meet_again_stay_apart():
    # The same weights later on are another training by then.
    methods = named("0", "0@0 0.5@0.25 0@0.5")
    assert cost(plan(methods, 40)) == 40 + 30


def test_no_method_is_no_work():
    assert plan({}, 5) == []
    assert cost([]) == 0


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"1 or more, but got {steps}"):
        plan(named(*PAPER), steps)


@unhurried
@given(losses(), losses(), STEPS, st.data())
def test_prefixes_are_equal_if_and_only_if_all_weights_so_far_are(one, other, steps, data):
    stop = data.draw(st.integers(1, steps))
    alike = walked(one, steps)[:stop] == walked(other, steps)[:stop]
    assert (prefix(one, stop, steps) == prefix(other, stop, steps)) == alike


@unhurried
@given(losses(), STEPS, st.data())
def test_a_prefix_holds_each_change_at_its_step(loss, steps, data):
    stop = data.draw(st.integers(1, steps))
    weights = walked(loss, steps)[:stop]
    runs = [len(list(group)) for _, group in itertools.groupby(weights)]
    changes = [0, *itertools.accumulate(runs[:-1])]
    found = prefix(loss, stop, steps)
    assert [(step, (float(now.alpha), float(now.beta))) for step, now in found] == [
        (step, weights[step]) for step in changes
    ]


def methods_of(*names: str, **arguments: float) -> list[Method]:
    return [Method(name, arguments) for name in names]


def groups(branches: list[Branch]) -> list[tuple[str, ...]]:
    return [branch.among for branch in branches]


def test_a_block_starts_with_one_branch_for_each_first_weights():
    methods = methods_of("ce", "0", "0,0.5", "el", "0-0.5", "ce@0 el@0.5")
    branches = roots(("a", 3), methods, [method.name for method in methods])
    assert groups(branches) == [("ce", "ce@0 el@0.5"), ("0", "0,0.5", "0-0.5"), ("el",)]
    for branch in branches:
        assert (branch.task, branch.seed, branch.start) == ("a", 3, 0)
        assert branch.methods == branch.among


def test_methods_with_other_arguments_share_nothing():
    methods = [Method("0"), Method("0,0.5", {"learning_rate": 1.0}), Method("0-0.5"), Method("0 0.5", {"n": [1]})]
    assert groups(roots(("a", 0), methods, PAPER)) == [("0", "0-0.5"), ("0,0.5",)]
    same = [Method("0", {"a": 1, "b": (1, 2)}), Method("0-0.5", {"b": [1, 2], "a": 1})]
    assert groups(roots(("a", 0), same, PAPER)) == [("0", "0-0.5")]


def test_without_sharing_every_method_is_a_branch():
    branches = roots(("a", 0), methods_of(*PAPER), PAPER, sharing=False)
    assert groups(branches) == [(name,) for name in PAPER]


def test_only_missing_methods_are_done_but_all_determine_the_segments():
    methods = methods_of(*PAPER)
    assert roots(("a", 0), methods, ["0,0.5"]) == [Branch("a", 0, ("0", "0,0.5", "0-0.5"), ("0,0.5",))]
    assert roots(("a", 0), methods, []) == []


def test_what_is_missing_keeps_the_order_of_the_study():
    (branch,) = roots(("a", 0), methods_of("0-0.5", "0", "0,0.5"), ["0,0.5", "0-0.5"])
    assert branch.methods == ("0-0.5", "0,0.5")
    assert branch.keys == (RunKey("a", "0-0.5", 0), RunKey("a", "0,0.5", 0))


def walk(branch: Branch, segments: list[Segment]) -> list[Branch]:
    """A branch and all that go on from it."""
    return [branch, *(below for child in branch.children(segments) for below in walk(child, segments))]


@unhurried
@given(METHODS, STEPS, st.data())
def test_walking_the_branches_trains_each_segment_that_a_missing_run_needs_once(methods, steps, data):
    assume(methods)
    missing = data.draw(st.sets(st.sampled_from(sorted(methods))))
    declared = [Method(name, loss=loss) for name, loss in methods.items()]
    trained: list[tuple[tuple[str, ...], Segment]] = []
    for root in roots(("a", 0), declared, missing):
        segments = plan({name: methods[name] for name in root.among}, steps)
        trained += [(branch.methods, branch.segment(segments)) for branch in walk(root, segments)]
    wanted = [segment for segment in plan(methods, steps) if missing & set(segment.methods)]
    key = [(segment.start, segment.stop, segment.methods) for segment in wanted]
    assert sorted((part.start, part.stop, part.methods) for _, part in trained) == sorted(key)
    for names, segment in trained:
        assert names == tuple(name for name in segment.methods if name in missing)


def test_a_branch_and_its_children_by_hand():
    segments = plan(named("0", "0,0.5", "0-0.5"), 600)
    among = ("0", "0,0.5", "0-0.5")
    root = Branch("a", 3, among, among)
    children = (Branch("a", 3, among, ("0", "0,0.5"), 100), Branch("a", 3, among, ("0-0.5",), 100))
    assert root.segment(segments) == segments[0]
    assert root.children(segments) == children
    assert children[0].children(segments) == (
        Branch("a", 3, among, ("0",), 570),
        Branch("a", 3, among, ("0,0.5",), 570),
    )
    assert children[1].children(segments) == ()


def test_children_take_what_is_done_already_out():
    among = ("0", "0,0.5", "0-0.5")
    segments = plan(named(*among), 600)
    root = Branch("a", 3, among, ("0,0.5",))
    assert root.children(iter(segments)) == (Branch("a", 3, among, ("0,0.5",), 100),)


def test_a_branch_that_cannot_be_shared_becomes_one_for_each_of_its_methods():
    branch = Branch("a", 3, ("0", "0,0.5", "0-0.5"), ("0", "0-0.5"), 100)
    assert branch.alone() == (Branch("a", 3, ("0",), ("0",)), Branch("a", 3, ("0-0.5",), ("0-0.5",)))


def test_a_branch_reads_as_words():
    assert str(Branch("cola", 3, ("0", "ce"), ("0", "ce"), 100)) == "cola 0 | ce seed 3"


def test_the_share_of_a_branch_is_what_it_costs_in_runs():
    shares = {b.among: share(b, named(*PAPER)) for b in roots(("a", 0), methods_of(*PAPER), PAPER)}
    assert shares == {("ce",): 1, ("0", "0,0.5", "0-0.5"): pytest.approx(1 + 0.05 + 5 / 6, abs=1e-5)}


def test_the_share_of_a_branch_counts_only_what_is_missing():
    (branch,) = roots(("a", 0), methods_of("0", "0,0.5", "0-0.5"), ["0,0.5"])
    assert share(branch, named(*PAPER)) == pytest.approx(1)
    (branch,) = roots(("a", 0), methods_of("0", "0,0.5", "0-0.5"), ["0,0.5", "0-0.5"])
    assert share(branch, named(*PAPER)) == pytest.approx(1 + 5 / 6, abs=1e-5)
