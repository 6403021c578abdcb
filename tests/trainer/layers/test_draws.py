"""Random numbers that depend on a seed and a place alone. Whole models are looked at in test_inject.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.layers.draws import draw_uniform, generator_of


def drawn(*shape, dtype=torch.float32, generator=None):
    rows = torch.full(shape, torch.nan, dtype=dtype)
    draw_uniform(rows, generator)
    return rows


def test_a_seed_and_a_place_give_the_same_numbers_today_and_tomorrow():
    assert generator_of(7, "layers.0.q", 0).initial_seed() == 8818396858017892850
    one, other = (drawn(3, 5, generator=generator_of(7, "layers.0.q", 0)) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "other", [(8, "layers.0.q", 0), (7, "layers.1.q", 0), (7, "layers.0.q", 1), (7, "layers.0.q"), (7, "layers.0.q", "0")]
)
def test_another_seed_or_place_gives_other_numbers(other):
    one, two = (drawn(1, 50, generator=generator_of(*place)) for place in [(7, "layers.0.q", 0), other])
    assert not torch.isclose(one, two).any()


@given(st.integers(0, 2**62 - 1))
def test_every_number_that_torch_draws_for_a_model_is_a_seed(seed):
    assert 0 <= generator_of(seed, "layers.0.q", 0).initial_seed() < 2**63


def test_a_generator_leaves_torchs_own_stream_alone_and_without_a_seed_it_is_torchs_own():
    assert generator_of(None, "layers.0.q", 0) is None
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = drawn(2, 4, generator=generator_of(7, "layers.0.q", 0))
    assert torch.equal(torch.get_rng_state(), before)
    own = drawn(2, 4)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(drawn(2, 4), own)
    assert not torch.equal(own, first)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 40), st.integers(0, 99))
def test_the_first_rows_are_the_same_however_many_there_are(one, other, d_in, seed):
    few, many = (drawn(rows, d_in, generator=generator_of(seed, "site")) for rows in sorted((one, other)))
    assert torch.equal(many[: len(few)], few)


@pytest.mark.parametrize("shape", [(60, 50), (50,), (3, 20, 50)])
def test_numbers_are_uniform_within_the_bound_of_lora(shape):
    rows = drawn(*shape, generator=generator_of(0))
    assert 0.9 / math.sqrt(50) < rows.abs().max() <= 1 / math.sqrt(50)
    assert abs(rows.mean()) < 4 / math.sqrt(3 * 50 * rows.numel())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_rounds_the_same_numbers(dtype):
    exact, rounded = (drawn(4, 9, dtype=dtype, generator=generator_of(0)) for dtype in (torch.float32, dtype))
    assert torch.equal(rounded, exact.to(dtype))


def test_rows_of_a_parameter_are_filled_and_no_others():
    parameter = torch.nn.Parameter(torch.zeros(4, 6))
    with torch.no_grad():
        draw_uniform(parameter[1:3])
    assert parameter.any(dim=1).tolist() == [False, True, True, False]
    assert parameter.grad_fn is None
