"""Batches of examples of like length, in an order that depends on seed and epoch alone: a resumed run has the same one."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class ByLength(Sampler[int]):
    """Positions of examples, drawn at random and sorted by length within every fifty batches.

    transformers' own sampler draws from the process's random numbers, of which a resumed run is at another place.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Prepare to sample.

        Args:
            lengths: tokens of every example.
            batch_size: examples per optimiser step.
            seed: of the run.
        """
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Note which pass over the data comes next; the Trainer does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # One number of both, because torch's generator looks at 32 bits of a seed.
        (both,) = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(both))
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
