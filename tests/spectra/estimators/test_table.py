import numpy as np
import pytest

from spectra import fit
from spectra.estimators import ESTIMATORS


def test_fit_names_the_estimators_it_knows():
    with pytest.raises(ValueError, match="'hilll': not one of clauset"):
        fit([1.0, 2.0], "hilll")


def test_the_table_says_whose_fits_every_report_holds_and_who_wants_windows():
    assert list(ESTIMATORS) == ["clauset", "hill", "peak", "peak-meant", "farms", "farms-peak"]
    assert [name for name, row in ESTIMATORS.items() if row.always] == ["clauset", "hill", "peak"]
    assert [name for name, row in ESTIMATORS.items() if row.guarded] == ["clauset", "hill"]
    assert [name for name, row in ESTIMATORS.items() if row.windowed] == ["farms", "farms-peak"]


@pytest.mark.parametrize("name", ["clauset", "hill", "peak", "peak-meant"])
def test_fit_asks_the_estimator_of_that_name(name):
    x = np.random.default_rng(0).standard_t(3, 300) ** 2
    assert fit(x, name) == ESTIMATORS[name].fit(x)
    assert fit(x) == ESTIMATORS["clauset"].fit(x)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("values", [[], [1.0], [0.0] * 9, [2.0] * 30, [1.0, np.nan], [np.inf, 1.0, 2.0]])
def test_no_estimator_raises_or_returns_a_sentinel(name, values):
    found = ESTIMATORS[name].fit(values)
    assert np.isnan(found.alpha)
    assert found.status.startswith("failed: ")
