"""Batches by length: every example once, alike long together, the same order for one seed and epoch."""

import numpy as np

from trainer.data.by_length import ByLength

LENGTHS = np.random.default_rng(0).integers(5, 200, 640).tolist()


def order(seed=0, epoch=0, batch_size=8):
    sampler = ByLength(LENGTHS, batch_size, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(LENGTHS)
    return list(sampler)


def test_every_example_comes_once_and_batches_are_of_like_length():
    found = order()
    assert sorted(found) == list(range(len(LENGTHS)))
    padding = [max(batch) * 8 - sum(batch) for batch in np.array(LENGTHS)[found].reshape(-1, 8).tolist()]
    at_random = [max(batch) * 8 - sum(batch) for batch in np.array(LENGTHS).reshape(-1, 8).tolist()]
    assert sum(padding) < 0.2 * sum(at_random)


def test_the_order_depends_on_seed_and_epoch_alone():
    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
