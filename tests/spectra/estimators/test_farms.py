import numpy as np
import pytest

from spectra.estimators import ESTIMATORS
from spectra.estimators.farms import window_eigenvalues
from spectra.estimators.hill import hill
from spectra.estimators.peak import peak
from tests.reference.hill import reference_windows


@pytest.mark.parametrize("shape", [(130, 260), (384, 384), (150, 100), (60, 40), (1024, 150), (100, 100)])
def test_farms_windows_equal_one_svd_each(shape):
    W = np.random.default_rng(1).normal(size=shape)
    ours, reference = window_eigenvalues(W), reference_windows(W)
    assert ours.size == reference.size
    np.testing.assert_allclose(ours, reference, atol=1e-12 * reference.max())


def test_farms_sees_no_aspect_ratio_where_hill_does():
    rng = np.random.default_rng(0)
    square, wide = rng.normal(size=(512, 512)), rng.normal(size=(256, 1024))
    plain = [hill(np.linalg.svd(W, compute_uv=False) ** 2).alpha for W in (square, wide)]
    windows = [hill(window_eigenvalues(W)).alpha for W in (square, wide)]
    assert plain == pytest.approx([2.13, 3.45], abs=0.05)  # the values that docs/reference/method.md speaks of
    assert abs(windows[0] - windows[1]) < 0.05


def test_windows_overlap_until_there_are_ten_along_each_side():
    assert window_eigenvalues(np.random.default_rng(0).normal(size=(300, 400))).size == 10 * 10 * 100
    assert window_eigenvalues(np.random.default_rng(0).normal(size=(100, 200))).size == 100
    assert window_eigenvalues(np.ones((3, 2))).size == 2 * 2  # two windows of 2 x 2: a narrow matrix is cut at its border


def test_the_table_fits_windows_with_hill_and_with_peak():
    x = window_eigenvalues(np.random.default_rng(0).standard_t(3, (200, 300)))
    assert ESTIMATORS["farms"].fit(x) == hill(x)
    assert ESTIMATORS["farms-peak"].fit(x) == peak(x)
