import pytest

from spectra import ESTIMATORS, AnalysisSettings, InputError
from spectra.estimators import Estimator
from spectra.estimators.hill import hill


def test_by_default_only_what_is_quick_is_computed():
    assert AnalysisSettings().model_dump() == {
        "estimator": "clauset", "precision": "exact", "bootstrap": 0, "subsamples": 0, "goodness": 0, "compare": False, "seed": 0,
        "modules": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"estimator": "hilll"}, "estimator 'hilll': not one of clauset, hill, peak, peak-meant, farms, farms-peak"),
        ({"bootstrap": -1}, "bootstrap: .*greater than or equal to 0, got -1"),
        ({"precision": "single"}, "precision: Input should be 'exact' or 'guarded', got 'single'"),
        ({"bootsrap": 3}, "bootsrap: Extra inputs are not permitted, got 3"),
    ],
)
def test_other_values_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        AnalysisSettings.checked(given, "settings")


def test_an_estimator_that_is_added_can_be_chosen(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "mine", Estimator(fit=hill))
    assert AnalysisSettings(estimator="mine").estimator == "mine"
