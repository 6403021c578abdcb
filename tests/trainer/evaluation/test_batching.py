"""Batches by length: everything once, the longest first, and no more than the budget."""

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation import batching
from trainer.evaluation.batching import ON_CPU, by_length, tokens_at_a_time


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_everything_is_there_once_and_padding_counts(lengths, tokens):
    groups = list(by_length(lengths, tokens))
    assert sorted(position for group in groups for position in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[position] for position in group) <= tokens
    longest = [lengths[group[0]] for group in groups]
    assert longest == sorted(longest, reverse=True)


def test_a_small_memory_takes_small_batches(monkeypatch):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=64, intermediate_size=256))
    model = SimpleNamespace(config=config, device=torch.device("cpu"))
    monkeypatch.setattr(batching, "_free_memory", lambda: 2**40)
    assert tokens_at_a_time(model) == ON_CPU
    monkeypatch.setattr(batching, "_free_memory", lambda: 2**22)
    assert tokens_at_a_time(model) == 128
    monkeypatch.setattr(batching, "_free_memory", lambda: 0)
    assert tokens_at_a_time(model) == 1
