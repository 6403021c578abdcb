"""One matrix and everything that a report says about it."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import spectra
from spectra import AnalysisSettings, open_checkpoint
from spectra.estimators.farms import window_eigenvalues
from spectra.estimators.hill import hill
from spectra.estimators.peak import peak
from spectra.spectrum import BINS, analyse_matrix


def test_guarded_single_precision_stays_close(minilm, spectra_report):
    guarded = spectra.analyze(minilm, AnalysisSettings(precision="guarded"))
    for ours, exact in zip(guarded.sites, spectra_report.sites, strict=True):
        for name in ours.fits:
            assert ours.fits[name].alpha == pytest.approx(exact.fits[name].alpha, rel=1e-4, nan_ok=True)
            assert ours.fits[name].n_tail == exact.fits[name].n_tail


def test_everything_that_can_be_asked_for(tiny_llama):
    settings = AnalysisSettings(estimator="farms", bootstrap=20, subsamples=4, goodness=20, compare=True)
    report = spectra.analyze(tiny_llama, settings)
    assert report.to_json() == spectra.analyze(tiny_llama, settings).to_json()
    for entry in report.sites:
        if not np.isfinite(entry.alpha):
            continue
        assert entry.uncertainty.interval.low <= entry.uncertainty.interval.high
        assert entry.uncertainty.subsample_variation > 0
        assert 0 <= entry.uncertainty.iid_p <= 1
        assert len(entry.uncertainty.comparisons) == 3


@pytest.fixture
def stored(tmp_path):
    """One matrix on disk, and its values."""
    W = np.random.default_rng(0).standard_t(4, (120, 250))
    save_file({"layers.0.up.weight": torch.from_numpy(W)}, tmp_path / "model.safetensors")
    (matrix,) = open_checkpoint(tmp_path).contents[0]
    return matrix, W


def test_a_site_reports_the_chosen_estimator_and_holds_those_that_are_always_there(stored):
    matrix, W = stored
    site, spectrum = analyse_matrix(matrix, AnalysisSettings(estimator="peak"))
    np.testing.assert_allclose(spectrum[::-1], np.linalg.svd(W, compute_uv=False) ** 2, rtol=1e-9)
    assert list(site.fits) == ["clauset", "hill", "peak"]
    assert site.alpha == site.fits["peak"].alpha == peak(spectrum).alpha
    assert (site.name, site.module, site.shape, site.n_eigenvalues) == ("layers.0.up", "layers.0.up", (120, 250), 120)


def test_a_windowed_estimator_sees_the_windows_of_the_matrix_as_it_is_stored(stored):
    matrix, W = stored
    site, _ = analyse_matrix(matrix, AnalysisSettings(estimator="farms"))
    assert site.alpha == pytest.approx(hill(window_eigenvalues(W)).alpha, rel=1e-12)
    assert site.fits["hill"].alpha != site.alpha


def test_a_density_is_a_histogram_of_logarithms_without_what_is_cut(stored):
    matrix, _ = stored
    kept = np.array([0.0, 1e-6, 1e-5, 1e-3, 1e-2, 1.0])
    site, spectrum = analyse_matrix(matrix, AnalysisSettings(), known=kept)
    assert spectrum is kept
    assert (site.n_eigenvalues, site.n_cut) == (6, 3)
    assert (site.density.log10_min, site.density.log10_max) == (-3.0, 0.0)
    counts = np.array(site.density.counts)
    assert counts.size == BINS
    assert (counts.sum(), counts[0], counts[33], counts[-1]) == (3, 1, 1, 1)
    assert analyse_matrix(matrix, AnalysisSettings(), known=np.array([0.0, 1.0]))[0].density is None


def test_every_matrix_and_every_purpose_has_a_random_stream_of_its_own(stored):
    matrix, _ = stored
    alone, _ = analyse_matrix(matrix, AnalysisSettings(bootstrap=8))
    among, _ = analyse_matrix(matrix, AnalysisSettings(bootstrap=8, goodness=3, subsamples=2))
    other, _ = analyse_matrix(matrix, AnalysisSettings(bootstrap=8, seed=1))
    assert alone.uncertainty.interval == among.uncertainty.interval != other.uncertainty.interval
    assert np.isnan(alone.uncertainty.iid_p)
    assert np.isnan(alone.uncertainty.subsample_variation)
