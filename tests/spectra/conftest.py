"""How the tests of spectra are run."""

import pytest

from spectra.eigenvalues import threads


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_small_products():
    """The references decompose hundreds of small matrices, whose threads would mostly wait for each other."""
    with threads(1):
        yield
