import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.sensitivity.report import STATISTICS
from planner.sensitivity.statistics import estimates, gradient_statistics, rank_agreement, squared_norm, stability


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 10), st.integers(1, 10), st.integers(0, 999))
def test_statistics_of_one_gradient(tokens, d_in, d_out, seed):
    generator = torch.Generator().manual_seed(seed)
    x, d, W = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
               ((tokens, d_in), (tokens, d_out), (d_out, d_in)))  # fmt: skip
    G = torch.einsum("to,ti->oi", d, x)
    expected = torch.stack([(G**2).sum(), (G * W).abs().sum(), (G * W).sum().abs(), ((G * W) ** 2).sum()])
    torch.testing.assert_close(gradient_statistics(x, d, W), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(squared_norm(x, d), expected[0], rtol=1e-10, atol=1e-12)


def test_stability_of_a_clear_ranking_and_of_noise():
    rng = np.random.default_rng(0)
    levels = 2.0 ** np.arange(12)
    clear = levels * rng.gamma(20, 1 / 20, (64, 12))
    curve, stable_from = stability(clear, ["a", "b"] * 6)
    assert [entry.examples for entry in curve] == [4, 8, 16, 32]
    assert stable_from == 4
    assert curve[-1].overlap == pytest.approx(1, abs=0.1)
    curve, stable_from = stability(rng.gamma(1, 1, (64, 200)), ["a"] * 200)
    assert stable_from is None
    assert all(abs(entry.rank_correlation) < 0.15 and abs(entry.overlap) < 0.15 for entry in curve)


def test_estimates_are_means_with_standard_errors_over_the_examples_that_were_taken():
    rows = np.array([[1.0, 4.0, np.nan, 2.0], [3.0, np.nan, 5.0, 2.0], [5.0, np.nan, 7.0, 2.0]])
    found = {name: (one.mean, one.error) for name, (one,) in estimates(rows).items()}
    assert tuple(found) == STATISTICS
    assert found["squared-gradient"] == (3.0, pytest.approx(2 / 3**0.5))
    assert found["magnitude"][0] == 4.0
    assert np.isnan(found["magnitude"][1])  # a single example has no error
    assert found["taylor"] == (6.0, pytest.approx(2**0.5 / 2**0.5))
    assert found["fisher"] == (2.0, 0.0)


@pytest.mark.parametrize(("examples", "sizes"), [(7, []), (8, [4]), (31, [4, 8]), (32, [4, 8, 16])])
def test_stability_is_asked_for_samples_up_to_half_of_the_examples(examples, sizes):
    curve, stable_from = stability(np.random.default_rng(0).random((examples, 6)), ["a"] * 6)
    assert [entry.examples for entry in curve] == sizes
    assert stable_from is None


def test_size_alone_makes_no_agreement():
    """Two types whose scales differ by a million, noise within each: sites are compared with their own type's mean."""
    noise = np.random.default_rng(0).gamma(1, 1, (64, 100)) * np.repeat([1.0, 1e6], 50)
    last = stability(noise, ["a"] * 50 + ["b"] * 50)[0][-1]
    assert abs(last.rank_correlation) < 0.2
    assert stability(noise, ["a"] * 100)[0][-1].rank_correlation > 0.7


def test_equal_sites_have_no_ranking():
    (entry,) = stability(np.ones((8, 5)), ["a"] * 5)[0]
    assert np.isnan(entry.rank_correlation)
    assert entry.overlap == 1.0
    assert np.isnan(stability(np.ones((8, 1)), ["a"])[0][0].overlap)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 3, 10, 30], [2, 4, 5, 15], 4 / 20**0.5),  # -1/2 and 1/2 in both types, and -1/3, 1/3, -1/2, 1/2
        ([1, 3, 10, 30], [1, 3, 30, 10], 0.0),
        ([1, 3, 10, 30], [3, 1, 30, 10], -1.0),
        ([-1, 1, -3, 9], [-10, 10, -30, 90], 1.0),  # what a mean of zero divides by is the mean size
        ([0, 0, 10, 30], [0, 0, 1, 3], 1.0),
    ],
)
def test_two_measurements_agree_as_their_sites_rank_within_their_types(one, other, expected):
    types = ["a", "a", "b", "b"]
    assert rank_agreement(np.array(one, dtype=float), np.array(other, dtype=float), types) == pytest.approx(expected, abs=1e-12)


def test_measurements_without_a_ranking_agree_on_nothing():
    assert np.isnan(rank_agreement(np.array([1.0, 9.0]), np.array([2.0, 3.0]), ["a", "b"]))


def test_what_differs_by_type_alone_is_no_agreement():
    rng, types = np.random.default_rng(0), ["a"] * 100 + ["b"] * 100
    one, other = (rng.gamma(1, 1, 200) * np.repeat([1.0, 1e6], 100) for _ in range(2))
    assert abs(rank_agreement(one, other, types)) < 0.2
    assert rank_agreement(one, other, ["a"] * 200) > 0.7
