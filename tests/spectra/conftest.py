"""How the tests of spectra are run."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_small_products():
    """The references decompose hundreds of small matrices, whose threads would mostly wait for each other."""
    with threadpool_limits(1, user_api="blas"):
        yield
