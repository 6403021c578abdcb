"""Effective rank of a whitened gradient, slowly: an inverse square root, singular values, a sum of their entropies."""

import math

import numpy as np


def reference_effective_rank(gradient, covariance, ridge=1e-3):
    """exp of the entropy of the squared singular values of G (C + lambda I)^(-1/2), lambda a thousandth of C's mean diagonal."""
    size = len(covariance)
    values, vectors = np.linalg.eigh(covariance + ridge * sum(covariance[at, at] for at in range(size)) / size * np.eye(size))
    inverse_root = sum(np.outer(vector, vector) / math.sqrt(value) for value, vector in zip(values, vectors.T, strict=True))
    squared = [value**2 for value in np.linalg.svd(gradient @ inverse_root, compute_uv=False)]
    shares = [value / sum(squared) for value in squared]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))
