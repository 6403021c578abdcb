import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_info

from spectra import open_checkpoint
from spectra.eigenvalues import BLOCK, eigenvalues, freed_memory_returned, spectrum_of, threads


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (30, 30), (1, 5)])
def test_eigenvalues_are_squared_singular_values(shape):
    W = np.random.default_rng(0).normal(size=shape)
    tall = W if shape[0] >= shape[1] else W.T
    found = eigenvalues([tall[:7], tall[7:]], min(shape))
    expected = np.linalg.svd(W, compute_uv=False) ** 2
    # a Gram matrix has absolute accuracy: a few ulp of the largest eigenvalue
    np.testing.assert_allclose(found[::-1], expected, rtol=0, atol=1e-14 * expected[0])


def test_a_gram_matrix_of_several_blocks_is_the_whole_one():
    W = np.random.default_rng(0).normal(size=(BLOCK + 60, BLOCK + 20))
    found = eigenvalues([W[:100], W[100:]], W.shape[1])
    np.testing.assert_allclose(found[::-1], np.linalg.svd(W, compute_uv=False) ** 2, atol=1e-9)


def test_single_precision_is_close_and_asked_for():
    W = np.random.default_rng(0).normal(size=(60, 40))
    exact, single = eigenvalues([W], 40), eigenvalues([W], 40, single=True)
    assert 0 < np.abs(single - exact).max() < 1e-5 * exact[-1]
    assert single.dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_one_entry_that_is_not_finite_or_too_large_spoils_every_eigenvalue(bad):
    W = np.ones((5, 3))
    W[3, 1] = bad
    assert np.isnan(eigenvalues([W], 3)).all()


def test_a_convolutions_spectrum_is_pooled_over_its_kernel(tmp_path):
    kernel = torch.randn(6, 4, 2, 1, dtype=torch.float64)
    save_file({"layers.0.conv.weight": kernel}, tmp_path / "model.safetensors")
    (matrix,) = open_checkpoint(tmp_path).contents[0]
    expected = np.concatenate([np.linalg.svd(kernel[:, :, at, 0].numpy(), compute_uv=False) ** 2 / 2 for at in range(2)])
    np.testing.assert_allclose(spectrum_of(matrix), np.sort(expected), rtol=1e-9)


def test_the_number_of_threads_is_set_inside_and_put_back():
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert torch.get_num_threads() == before


def test_memory_is_asked_back_without_hiding_an_error():
    with pytest.raises(KeyError, match="inside"), freed_memory_returned():
        raise KeyError("inside")
