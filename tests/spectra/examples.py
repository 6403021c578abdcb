"""Spectra made by hand, for tests of estimators."""

import numpy as np


def spectrum(n, m, seed=0, tail=3):
    """Eigenvalues of a matrix whose entries are heavy-tailed."""
    W = 0.02 * np.random.default_rng(seed).standard_t(tail, (n, m))
    return np.sort(np.linalg.svd(W, compute_uv=False) ** 2)


def rank_deficient():
    """64 eigenvalues of a matrix of rank 40: 24 of them are rounding noise."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(64, 40)) @ rng.normal(size=(40, 64))
    return np.sort(np.linalg.eigvalsh(W.T @ W))
