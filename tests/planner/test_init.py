import pytest

import planner
from planner.modules.labelled import labelled_losses
from planner.modules.linear import linear_shape
from planner.sensitivity.probe import probe


def test_what_loads_torch_is_found_when_it_is_asked_for():
    assert (planner.probe, planner.labelled_losses, planner.linear_shape) == (probe, labelled_losses, linear_shape)


def test_what_is_not_there_is_missed_as_in_any_module():
    with pytest.raises(AttributeError, match="module 'planner' has no attribute 'allocat'"):
        planner.allocat  # noqa: B018
