import numpy as np

from spectra.estimators.clauset import clauset
from spectra.estimators.fits import FitStatus
from spectra.estimators.hill import hill
from spectra.estimators.tails import distance, exponents, failed, tail_fit, tails
from spectra.uncertainty.resampling import COVERAGE, bootstrap, goodness_of_fit, subsample_variation


def test_goodness_of_fit_accepts_a_power_law_and_rejects_what_is_none():
    rng = np.random.default_rng(0)
    law = (1 - rng.random(500)) ** (-1 / 1.5)
    other = np.sort(1 + rng.random(500))  # uniform, fitted from its smallest value on
    sample = tails(other)
    whole = tail_fit(sample, 0, float(exponents(sample)[0]), distance(sample, exponents(sample), 0))
    assert goodness_of_fit(law, clauset(law), 100, np.random.default_rng(1)) > 0.1
    assert goodness_of_fit(other, whole, 100, np.random.default_rng(1)) < 0.1


def test_intervals_cover_the_known_exponent():
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = bootstrap((1 - rng.random(400)) ** (-1 / 1.5), clauset, 60, rng)
        covered += found.low <= 2.5 <= found.high
    assert covered >= 15


def test_subsamples_of_noise_vary_little_for_hill():
    W = np.random.default_rng(0).normal(size=(120, 200))
    alpha = lambda part: hill(np.linalg.svd(part, compute_uv=False) ** 2).alpha  # noqa: E731
    assert subsample_variation(W, alpha, 6, np.random.default_rng(0)) < 0.05


def test_an_interval_is_the_percentiles_of_the_resamples():
    x = (1 - np.random.default_rng(0).random(200)) ** -0.7
    found = bootstrap(x, hill, 40, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    alphas = [hill(rng.choice(x, x.size)).alpha for _ in range(40)]
    assert (found.low, found.high) == tuple(np.quantile(alphas, [0.025, 0.975]))
    assert (found.coverage, found.replicas) == (COVERAGE, 40) == (0.95, 40)


def test_failed_resamples_are_left_out_and_none_at_all_is_no_interval():
    found = bootstrap(np.ones(30), clauset, 5, np.random.default_rng(0))
    assert found.replicas == 0
    assert np.isnan([found.low, found.high]).all()


def test_variation_is_the_spread_over_the_mean_of_nine_tenths_of_the_matrix():
    seen = []

    def alpha(part):
        seen.append(part.shape)
        return float(len(seen))

    found = subsample_variation(np.zeros((40, 30)), alpha, 3, np.random.default_rng(0))
    assert seen == [(36, 27)] * 3
    assert found == 1.0 / 2.0
    assert np.isnan(subsample_variation(np.zeros((40, 30)), alpha, 1, np.random.default_rng(0)))


def test_a_failed_fit_has_no_goodness():
    assert np.isnan(goodness_of_fit(np.ones(9), failed(FitStatus.ALL_EQUAL), 10, np.random.default_rng(0)))
