import numpy as np
import pytest

from spectra.estimators.clauset import clauset
from spectra.estimators.hill import hill
from spectra.metrics import bulk_edge, marchenko_pastur_median, metrics


@pytest.mark.parametrize(
    ("ratio", "median"), [(1.0, 0.65278), (0.5, 0.83047), (0.25, 0.91600), (0.125, 0.95817), (0.0625, 0.97913)]
)
def test_the_marchenko_pastur_median(ratio, median):
    assert marchenko_pastur_median(ratio) == pytest.approx(median, abs=1e-5)


@pytest.mark.parametrize("shape", [(600, 600), (900, 300), (300, 900)])
def test_the_bulk_edge_of_noise_is_where_noise_ends(shape):
    x = np.sort(np.linalg.svd(0.3 * np.random.default_rng(0).normal(size=shape), compute_uv=False) ** 2)
    assert bulk_edge(x, shape) == pytest.approx(x[-1], rel=0.05)
    spiked = np.append(x[:-2], [4 * x[-1], 9 * x[-1]])
    assert metrics(spiked, hill(spiked), shape).n_beyond_edge in (2, 3)


def test_metrics_of_a_spectrum_that_is_easy_to_work_out():
    found = metrics(np.array([1.0, 1.0, 4.0]), clauset([1.0, 1.0, 4.0]), (3, 3))
    assert (found.lambda_max, found.frobenius_norm, found.stable_rank) == (4.0, 6**0.5, 1.5)
    assert found.effective_rank == pytest.approx(np.exp(1.5 * np.log(2)))  # singular values 1, 1, 2
    assert found.spectral_entropy == pytest.approx((2 / 6 * np.log(6) + 4 / 6 * np.log(1.5)) / np.log(3))
    assert found.log_alpha_norm == pytest.approx(np.log10(2 + 4 ** clauset([1.0, 1.0, 4.0]).alpha))


def test_metrics_of_nothing_are_nan():
    nothing = metrics(np.full(4, np.nan), clauset([np.nan]), (4, 4))
    assert np.isnan(nothing.stable_rank)
    assert nothing.n_beyond_edge == 0
