"""Successive halving, against losses that are known."""

import math

import pytest

from spectra import InputError
from trainer.training.rate import LEAST, MOST, search


def known(best, seen=None):
    def loss_of(rate, steps):
        if seen is not None:
            seen.append((rate, steps))
        return abs(math.log(rate / best))

    return loss_of


@pytest.mark.parametrize("best", [2.5e-4, 1e-3, 4e-3])
def test_the_best_rate_is_found(best):
    assert search(known(best), 1000).learning_rate == best


def test_the_better_half_runs_twice_as_long():
    seen = []
    found = search(known(1e-3, seen), 400, (1e-4, 1e-3, 1e-2, 1e-1))
    assert seen == [(1e-4, 20), (1e-3, 20), (1e-2, 20), (1e-1, 20), *((rate, 40) for rate in (1e-3, 1e-4))]
    assert found.steps == 4 * 20 + 2 * 40
    assert [(one.learning_rate, one.steps) for one in found.tried] == seen


@pytest.mark.parametrize(("steps", "first"), [(10, LEAST), (10**6, MOST)])
def test_first_runs_are_neither_too_short_nor_too_long(steps, first):
    assert search(known(1e-3), steps).tried[0].steps == first


def test_rates_that_diverge_are_left_behind_and_if_all_do_it_is_one_line():
    found = search(lambda rate, steps: math.inf if rate > 1e-3 else -rate, 100)
    assert found.learning_rate == 1e-3
    with pytest.raises(InputError, match=r"`learning_rate` auto: the loss diverges at every rate from 0.00025 to 0.004"):
        search(lambda rate, steps: math.nan, 100)
