import json
import math

import pytest
from pydantic import ValidationError

from spectra.estimators.fits import FitStatus, TailFit


def test_a_fit_without_numbers_is_null_on_disk_and_nan_again():
    fit = TailFit(alpha=math.nan, x_min=math.nan, n_tail=0, ks=math.nan, sigma=math.nan, status=FitStatus.ALL_EQUAL)
    stored = json.loads(fit.model_dump_json())
    assert stored == {
        "alpha": None, "x_min": None, "n_tail": 0, "ks": None, "sigma": None, "status": "failed: all eigenvalues are equal"
    }  # fmt: skip
    again = TailFit.model_validate(stored)
    assert math.isnan(again.alpha)
    assert again.status is FitStatus.ALL_EQUAL


def test_a_status_says_in_its_first_word_whether_there_is_an_exponent():
    with_exponent = {FitStatus.OK, FitStatus.SMALL_SAMPLE, FitStatus.SHORT_TAIL}
    assert {status for status in FitStatus if status.startswith("ok")} == with_exponent
    assert {status for status in FitStatus if status.startswith("failed: ")} == set(FitStatus) - with_exponent - {
        FitStatus.NOT_GIVEN
    }


def test_an_unknown_status_is_refused():
    with pytest.raises(ValidationError, match="status"):
        TailFit(alpha=2.0, x_min=1.0, n_tail=3, ks=0.1, sigma=0.1, status="fine")
