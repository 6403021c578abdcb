"""AnalysisSettings: what `plan analyze` computes."""

from typing import Annotated, Literal

from pydantic import Field

from spectra.core.documents import Value


class AnalysisSettings(Value):
    """What to compute. Whatever it is, the same settings on the same checkpoint give the same bytes."""

    estimator: Literal["clauset", "hill", "peak", "peak-meant", "farms", "farms-peak"] = "clauset"
    """Whose exponent a site reports as its alpha; clauset and hill are in the report in any case."""
    precision: Literal["exact", "guarded"] = "exact"
    """Of the eigenvalues: double, or single where its error cannot matter (for clauset and hill) and double elsewhere."""
    bootstrap: Annotated[int, Field(ge=0)] = 0
    """Resamples for an interval of alpha; 0 for none."""
    subsamples: Annotated[int, Field(ge=0)] = 0
    """Random submatrices for the variation of alpha within the matrix; each costs a decomposition."""
    goodness: Annotated[int, Field(ge=0)] = 0
    """Replicas for the goodness-of-fit p-value of the Clauset fit."""
    compare: bool = False
    """Compare the power law with other distributions of the same tail."""
    seed: int = 0
    """Of resampling; each matrix has a stream of its own, so order does not matter."""
