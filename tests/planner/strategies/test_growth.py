"""The rule of growth against a simulation that asks every expert anew at every rank."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.strategies.growth import GrowthRule, grown, hand_out, ranks_after, saliency
from tests.reference.growth import reference_growth, reference_one_pass, reference_run

HANDOUTS = ("one-by-one", "one-pass")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 6)), min_size=1, max_size=12), st.integers(0, 40), st.integers(1, 9),
    st.integers(1, 5), st.floats(0, 3), st.sampled_from(HANDOUTS),
)  # fmt: skip
def test_sharing_a_quota_out_equals_the_formula_step_by_step(experts, quota, most, per_event, penalty, handout):
    worth, ranks = zip(*experts, strict=True)
    ranks = [min(rank, most) for rank in ranks]
    rule = GrowthRule(growth_penalty=penalty, growth_handout=handout)
    ours = hand_out(rule, worth, [0.0] * len(worth), ranks, quota, most=most, per_event=per_event)
    simulation = reference_growth if handout == "one-by-one" else reference_one_pass
    assert ours == simulation(worth, ranks, quota, most, per_event, penalty)
    assert 0 <= sum(ours) - sum(ranks) <= quota


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 16), st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.sampled_from(HANDOUTS), st.integers(0, 99)
)
def test_every_run_ends_on_its_target(experts, start, room, events, handout, seed):
    random = Random(seed)
    most = start + room
    target = random.randint(experts * start, experts * most)
    rule, ranks = GrowthRule(growth_handout=handout), [start] * experts
    for done in range(1, events + 1):
        worth = [random.random() for _ in range(experts)]
        before = ranks
        ranks = ranks_after(
            rule, worth, worth, ranks, done, target=target, start=start, most=most, events=events
        )  # fmt: skip
        assert max(ranks) <= most
        if done < events:
            assert max(after - rank for after, rank in zip(ranks, before, strict=True)) <= max(1, math.ceil(0.1 * room))
    assert sum(ranks) == target


@pytest.mark.parametrize("handout", HANDOUTS)
@pytest.mark.parametrize("seed", range(20))
def test_growth_under_signals_that_stand_still_ends_where_the_simulation_does(handout, seed):
    random = Random(seed)
    experts, target = 8, 8 * 6 + seed % 8
    worth = [random.random() ** 3 for _ in range(experts)]
    rule = GrowthRule(growth_handout=handout)
    assert grown(rule, worth, worth, target=target, most=64) == reference_run(worth, target, handout)


def test_the_published_setting_is_the_default():
    rule = GrowthRule()
    assert [rule.start_of(target, 4) for target in (64, 16, 20, 4, 3)] == [8, 2, 2, 1, 1]
    assert [rule.most_of(target, 4) for target in (64, 16, 17, 4)] == [32, 8, 10, 2]
    assert saliency(3.0, 1, rule.growth_penalty) == 3.0 / 2**1.2
    asked = GrowthRule(growth_start=3, growth_most=9)
    assert (asked.start_of(64, 4), asked.most_of(64, 4)) == (3, 9)


def test_events_without_a_signal_wait_and_the_last_one_follows_the_shares():
    rule, place = GrowthRule(), {"target": 12, "start": 2, "most": 8, "events": 4}
    assert ranks_after(rule, [0.0] * 4, [0.1, 0.2, 0.6, 0.1], [2] * 4, 3, **place) == [2, 2, 2, 2]
    assert ranks_after(rule, [0.0] * 4, [0.1, 0.2, 0.6, 0.1], [2] * 4, 4, **place) == [2, 2, 6, 2]


def test_among_equals_the_larger_share_goes_first_and_then_the_lower_number():
    rule = GrowthRule(growth_penalty=0)
    assert hand_out(rule, [1.0] * 3, [0.2, 0.5, 0.5], [1] * 3, 1, most=9, per_event=9) == [1, 2, 1]


def test_the_last_event_closes_whatever_gap_is_left():
    """Limits per event may have kept a group behind; at the end its target counts."""
    place = {"target": 16, "start": 2, "most": 8, "events": 18}
    assert ranks_after(GrowthRule(), [1.0] * 4, [0.25] * 4, [2] * 4, 17, **place) == [3, 3, 3, 3]  # a tenth of the room each
    assert ranks_after(GrowthRule(), [1.0] * 4, [0.25] * 4, [2] * 4, 18, **place) == [4, 4, 4, 4]
