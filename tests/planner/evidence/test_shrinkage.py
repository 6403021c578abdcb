"""How a prior and measured benefits become one appetite, and what `combined` makes of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.evidence.shrinkage import LEAST_WEIGHT, updated
from planner.sensitivity.report import Estimate, TrialRun
from spectra import open_checkpoint
from spectra.checkpoint.names import parse_name
from trainer import load_sample

PRIOR = np.array([1.0, 2.0, 1.0, 0.5])


def measured(means, errors):
    return np.array([means, np.broadcast_to(errors, len(means))]).T


@pytest.mark.parametrize("foresight", [0.0, 0.5, 1.0])
def test_a_measurement_without_noise_counts_as_much_as_foresight_allows(trust):
    means = np.array([4.0, 1.0, 2.0, 1.0])
    expected = trust * means / means.mean() + (1 - trust) * PRIOR / PRIOR.mean()
    np.testing.assert_allclose(updated(PRIOR, measured(means, 0.0), trust), expected, rtol=1e-12)


def test_a_measurement_of_nothing_but_noise_changes_nothing():
    before = PRIOR / PRIOR.mean()
    np.testing.assert_allclose(updated(PRIOR, measured([4.0, 1.0, 2.0, 1.0], np.nan)), before, rtol=1e-12)
    np.testing.assert_allclose(updated(PRIOR, measured([4.0, 1.0, 2.0, 1.0], 3.0)), before, rtol=1e-12)
    np.testing.assert_allclose(updated(PRIOR, measured([-1.0, 0.2, 0.1, 0.1], 0.01)), before, rtol=1e-12)


def test_the_surer_of_two_equal_sites_moves_further():
    found = updated(np.ones(4), measured([3.0, 3.0, 1.0, 1.0], [0.1, 1.0, 0.1, 0.1]))
    assert found[0] > found[1] > 1.0


@given(
    st.lists(st.tuples(st.floats(-1, 10), st.floats(0, 3), st.floats(0.1, 5)), min_size=2, max_size=20),
    st.floats(1e-3, 1e3),
)
def test_appetites_are_positive_of_mean_one_and_know_no_units(rows, unit):
    means, errors, prior = np.array(rows).T
    found = updated(prior, measured(means, errors))
    assert found.mean() == pytest.approx(1.0)
    assert found.min() > 0.5 * LEAST_WEIGHT or found.min() == pytest.approx((prior / prior.mean()).min())
    np.testing.assert_allclose(found, updated(prior, measured(unit * means, unit * errors)), rtol=1e-6)


@pytest.fixture(scope="module")
def evidence(minilm, spectra_report, small_corpus):
    checkpoint = open_checkpoint(minilm)
    sample = load_sample(checkpoint, small_corpus[0], samples=8, max_length=32, seed=0)
    return {"spectra": spectra_report, "sensitivity": planner.probe(sample.model, sample.batches, checkpoint=checkpoint)}


def combined(evidence, loss_reduction, error):
    """The plan of `combined` after a rehearsal in which a site of layer l brought benefit(l) per parameter."""
    report = evidence["sensitivity"]
    found = {
        site.name: Estimate(mean=loss_reduction(parse_name(site.name).layer) * sum(site.shape), error=error * sum(site.shape))
        for site in report.sites
    }
    gain = Estimate(mean=sum(one.mean for one in found.values()), error=error)
    how = TrialRun(rank=2, steps=30, batch_size=32, learning_rate=1e-3, examples=64, gain=gain)
    return planner.allocate(
        budget="rank 4", max_experts=1, spectra=evidence["spectra"], sensitivity=report.with_trial_run(how, found)
    )


def by_layer(plan):
    return [sum(sum(site.ranks) for site in plan.sites if parse_name(site.name).layer == layer) for layer in range(6)]


def test_combined_follows_what_was_measured_and_starves_nothing(evidence):
    plan = combined(evidence, lambda layer: 1e-6 * (layer + 1), 0.0)
    assert by_layer(plan) == sorted(by_layer(plan))
    assert by_layer(plan)[5] > 3 * by_layer(plan)[0]
    assert all(site.ranks and site.loss_reduction > 0 for site in plan.sites)
    assert plan.notes[-1].startswith("in our study such plans were level with uniform at equal size")


def test_combined_stands_half_way_between_what_it_knew_and_what_was_measured(evidence):
    before, after = (
        np.array([site.weight for site in plan.sites])
        for plan in (planner.allocate(budget="rank 4", **evidence), combined(evidence, lambda layer: 1e-6 * (layer + 1), 0.0))
    )
    layers = np.repeat(np.arange(6), 6) + 1
    np.testing.assert_allclose(after, (before + layers / layers.mean()) / 2, rtol=1e-9)


def test_combined_does_without_a_rehearsal_that_gained_nothing(evidence):
    without = planner.allocate(budget="rank 4", max_experts=1, **evidence)
    plan = combined(evidence, lambda layer: 1e-8 * (layer - 2.5), 1e-6)
    assert [site.ranks for site in plan.sites] == [site.ranks for site in without.sites]
    assert plan.notes[0].startswith("the rehearsal gained no more than noise")
    assert without.notes[0].startswith("made without a rehearsal")
