"""Attention by plain products, against a loop over heads and against torch's own function."""

import pytest
import torch
from torch import nn

from planner.modules import attention as module
from planner.modules.attention import LONGEST, attention, use_products
from tests import models


def inputs(batch=2, heads=6, groups=2, tokens=7, side=8, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(batch, count, tokens, side, dtype=dtype, requires_grad=True) for count in (heads, groups, groups)]


def reference(query, key, value, seen, scaling):
    heads = []
    for head in range(query.shape[1]):
        group = head // (query.shape[1] // key.shape[1])
        logits = query[:, head] @ key[:, group].mT * scaling
        heads.append(logits.masked_fill(~seen[:, 0], -torch.inf).softmax(-1) @ value[:, group])
    return torch.stack(heads, dim=2)


def masks(kind, batch=2, tokens=7):
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(batch, 1, -1, -1)
    if kind == "none":
        return None, causal
    ragged = causal & (torch.arange(tokens) < torch.tensor([tokens, tokens - 3])[:, None, None, None])
    if kind == "boolean":
        return ragged, ragged
    return torch.zeros(ragged.shape).masked_fill(~ragged, torch.finfo(torch.float32).min), ragged


@pytest.mark.parametrize("kind", ["none", "boolean", "added"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_a_loop_over_heads(kind, scaling):
    given, seen = masks(kind)
    ours, theirs = inputs(), inputs()
    found = module._products(*ours, given, scaling, True)
    expected = reference(*theirs, seen, 8**-0.5 if scaling is None else scaling)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # the softmax is in single precision
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "own"),
    [({}, True), ({"dtype": torch.float32}, False), ({"tokens": LONGEST + 1, "batch": 1}, False), ({"grad": False}, False)],
)
def test_what_torch_does_faster_is_left_to_it(changes, own, monkeypatch):
    told = []
    monkeypatch.setattr(module, "sdpa_attention_forward", lambda *_, **__: told.append(1) or (None, None))
    grad = changes.pop("grad", True)
    given = inputs(**({"dtype": torch.bfloat16} | changes))
    with torch.set_grad_enabled(grad):
        attention(nn.Module(), *(part if grad else part.detach() for part in given), None)
    assert bool(told) != own


def test_a_model_answers_alike_and_is_saved_without_a_trace(tmp_path):
    model = models.build("llama").bfloat16()
    ids = torch.arange(3, 15)[None]
    before = model(ids).logits
    use_products(model)
    assert model.config._attn_implementation == module.NAME
    torch.testing.assert_close(model(ids).logits, before, rtol=0.05, atol=0.05)
    model.save_pretrained(tmp_path)
    assert module.NAME not in (tmp_path / "config.json").read_text()
