"""The products of an adapted layer: values and gradients against plain operators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.layers.low_rank import AdaptedLinear, LowRankUpdate, RouterLogits


def leaves(*shapes, dtype=torch.float64):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.booleans())
def test_values_and_gradients_are_those_of_plain_operators(tokens, d_in, d_out, rank, per_token, biased):
    torch.manual_seed(0)
    x, A, B, columns = leaves((tokens, d_in), (rank, d_in), (d_out, rank), (tokens, rank) if per_token else (rank,))
    W, bias = torch.randn(d_out, d_in).double(), torch.randn(d_out).double() if biased else None
    (y,) = leaves((tokens, d_out))
    (seen,) = leaves((tokens, d_in))
    assert torch.autograd.gradcheck(lambda *some: AdaptedLinear.apply(some[0], None, W, bias, *some[1:]), (x, A, B, columns))
    dropped = lambda *some: AdaptedLinear.apply(*some[:2], W, bias, *some[2:])  # noqa: E731
    assert torch.autograd.gradcheck(dropped, (x, seen, A, B, columns))
    assert torch.autograd.gradcheck(LowRankUpdate.apply, (y, x, A, B, columns))
    assert torch.autograd.gradcheck(RouterLogits.apply, (x, A))
    plain = (x @ A.T * columns) @ B.T
    base = torch.nn.functional.linear(x, W, bias)
    torch.testing.assert_close(AdaptedLinear.apply(x, None, W, bias, A, B, columns), base + plain, rtol=1e-12, atol=1e-12)
    apart = base + (seen @ A.T * columns) @ B.T
    torch.testing.assert_close(dropped(x, seen, A, B, columns), apart, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(LowRankUpdate.apply(y, x, A, B, columns), y + plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(RouterLogits.apply(x, A), x @ A.T, rtol=1e-12, atol=1e-12)


def test_adapters_of_a_half_precision_base_get_gradients_in_their_own():
    torch.manual_seed(0)
    x, A, B, columns = leaves((32, 16), (4, 16), (8, 4), (4,), dtype=torch.float32)
    low, W = x.detach().bfloat16().requires_grad_(), torch.randn(8, 16)
    weights = torch.randn(32, 8)
    (AdaptedLinear.apply(low, None, W.bfloat16(), None, A, B, columns).float() * weights).sum().backward()
    found = [A.grad.clone(), B.grad.clone(), columns.grad.clone()]
    assert {grad.dtype for grad in found} == {torch.float32}
    assert low.grad.dtype == torch.bfloat16
    for leaf in (A, B, columns):
        leaf.grad = None
    ((x @ W.T + (x @ A.T * columns) @ B.T) * weights).sum().backward()
    for ours, theirs in zip(found, (A.grad, B.grad, columns.grad), strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_what_needs_no_gradient_gets_none(wanted):
    some = leaves((3, 4), (2, 4), (5, 2), (2,))
    for number, leaf in enumerate(some):
        leaf.requires_grad_(number == wanted)
    AdaptedLinear.apply(some[0], None, torch.randn(5, 4).double(), None, *some[1:]).sum().backward()
    assert [leaf.grad is not None for leaf in some] == [number == wanted for number in range(4)]


def test_updates_below_half_precision_are_not_swallowed():
    """A trained adapter changes an output by less than its last bit; a rounded product with that added is the product."""
    torch.manual_seed(0)
    x, W, A, B = (torch.randn(shape) for shape in [(256, 64), (48, 64), (4, 64), (48, 4)])
    exact = (x.bfloat16().double() @ W.bfloat16().double().T, 3e-4 * (x.double() @ A.double().T) @ B.double().T)
    assert (exact[1].norm() / exact[0].norm()) < 2**-9
    given = (x.bfloat16(), W.bfloat16(), A, B, torch.full((4,), 3e-4))
    ours = AdaptedLinear.apply(given[0], None, given[1], None, *given[2:]).double() - exact[0]
    rounded = (given[0] @ given[1].T).double() - exact[0]

    def share(found):
        """Of the update that is in an error, found by projection."""
        return ((found * exact[1]).sum() / exact[1].square().sum()).item()

    assert abs(share(rounded)) < 0.1
    assert share(ours) == pytest.approx(1, abs=0.1)
    # And of the gradient of x: what comes through A is as small beside what comes through W.
    d, leaf = torch.randn(256, 48).bfloat16(), given[0].clone().requires_grad_()
    AdaptedLinear.apply(leaf, None, given[1], None, *given[2:]).backward(d)
    through_W, through_A = d.double() @ given[1].double(), 3e-4 * (d.double() @ B.double()) @ A.double()
    left = leaf.grad.double() - through_W
    assert ((left * through_A).sum() / through_A.square().sum()).item() == pytest.approx(1, abs=0.15)
