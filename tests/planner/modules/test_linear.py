import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from planner.modules.linear import add_to_weight, dense_weight, linear_shape


def test_linear_modules_have_a_shape_outputs_first_and_others_none():
    assert linear_shape(nn.Linear(5, 3)) == (3, 5)
    assert linear_shape(Conv1D(3, 5)) == (3, 5)
    assert [linear_shape(other) for other in (nn.Embedding(5, 3), nn.Conv1d(5, 3, 1), nn.LayerNorm(3))] == [None] * 3


@pytest.mark.parametrize("module", [nn.Linear(5, 3), Conv1D(3, 5)])
def test_a_weight_is_what_the_module_multiplies_with(module):
    W = dense_weight(module, torch.float64)
    assert (W.shape, W.dtype, W.requires_grad) == ((3, 5), torch.float64, False)
    x = torch.randn(2, 5)
    torch.testing.assert_close(module(x), (x.double() @ W.T).float() + module.bias)


@pytest.mark.parametrize("module", [nn.Linear(5, 3), Conv1D(3, 5)])
def test_an_update_is_added_where_the_module_keeps_it(module):
    module.requires_grad_(False)
    before, update = dense_weight(module, torch.float64).clone(), torch.randn(3, 5, dtype=torch.float64)
    add_to_weight(module, update)
    torch.testing.assert_close(dense_weight(module, torch.float64), before + update, rtol=1e-6, atol=1e-6)
    assert module.weight.dtype == torch.float32


def test_a_sum_is_rounded_once():
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    module.weight.fill_(1.0)
    # bfloat16 has steps of 1/128 above 1: the update alone rounds to 0.01, and 1.01 to 1 1/128
    add_to_weight(module, torch.tensor([[0.0099]]))
    assert module.weight.item() == 1 + 1 / 128


def test_four_bit_codes_are_dequantised():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plain = nn.Linear(64, 32)
    coded = bitsandbytes.nn.Linear4bit(64, 32, compute_dtype=torch.float32, quant_type="nf4")
    coded.load_state_dict(plain.state_dict())
    coded.to("cpu")
    found = dense_weight(coded, torch.float32)
    assert linear_shape(coded) == found.shape == (32, 64)
    torch.testing.assert_close(found, bitsandbytes.functional.dequantize_4bit(coded.weight.data, coded.weight.quant_state))
    assert (found - plain.weight).abs().max() < 0.2 * plain.weight.abs().max()
