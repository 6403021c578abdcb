"""AnalysisSettings: what `plan analyze` computes."""

from typing import Annotated, Literal

from pydantic import Field

from spectra.core.documents import Value
from spectra.core.methods import OneOf
from spectra.estimators import ESTIMATORS


class AnalysisSettings(Value):
    """Settings of an analysis. On one machine and device the same settings on the same checkpoint give the same bytes."""

    estimator: Annotated[str, OneOf(ESTIMATORS, "estimator")] = "clauset"
    """Estimator whose exponent a site reports as its alpha. The report holds those of clauset, hill and peak in any case."""
    precision: Literal["exact", "guarded"] = "exact"
    """Precision of the eigenvalues. `exact`: float64. `guarded`: float32 where the fit provably does not change (clauset and hill, and no other fit is then kept), float64 elsewhere."""  # noqa: E501
    modules: str | None = None
    """Matrices to analyse, separated by commas: names as PEFT's target_modules takes them, `attention`, `mlp`, or patterns of the whole name. Default: all."""  # noqa: E501
    bootstrap: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Number of resamples for an interval of alpha; 0 for none."""
    subsamples: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Number of random submatrices for the variation of alpha within the matrix. Each costs a decomposition."""
    goodness: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Number of replicas for the goodness-of-fit p-value of the Clauset fit; 0 for none."""
    compare: bool = False
    """Compare the power law with other distributions of the same tail."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed for resampling. Every matrix has a random stream of its own, so their order does not matter."""
