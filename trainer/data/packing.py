"""Packing: several tokenised examples in one row, none of which sees another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from spectra import InputError


def first_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Put each example, in order, into the first block that has room for it.

    Args:
        lengths: of the examples, none above `size`.
        size: of a block.

    Returns:
        For each block the positions of its examples, ascending.
    """
    # Room in each block. There are never more blocks than examples, so all are there from the beginning, the unused ones empty.
    free = np.full(len(lengths), size)
    blocks: list[list[int]] = []
    for position, length in enumerate(lengths):
        # argmax of booleans is the first True. One unused block is always looked at, so there is one.
        block = int(np.argmax(free[: len(blocks) + 1] >= length))
        if block == len(blocks):
            blocks.append([])
        blocks[block].append(position)
        free[block] -= length
    return blocks


def pack_rows(rows: Any, max_length: int) -> Any:
    """Concatenate examples into rows of at most `max_length` tokens.

    Args:
        rows: a datasets.Dataset with `input_ids` and `labels`, no example longer than `max_length`.
        max_length: in tokens.

    Returns:
        A datasets.Dataset with `input_ids`, `labels` and `position_ids`, which start at 0 again with each example. It has no
        `attention_mask`, by which a collator tells it from rows that hold one example each.
    """
    lengths = [len(tokens) for batch in rows.iter(1000) for tokens in batch["input_ids"]]
    packed = [_joined(rows[block]) for block in first_fit(lengths, max_length)]
    return datasets.Dataset.from_dict({name: [row[name] for row in packed] for name in ("input_ids", "labels", "position_ids")})


def _joined(block: dict[str, list[list[int]]]) -> dict[str, Any]:
    # The first token of an example follows from nothing; without -100 the last token of its neighbour would have to predict it.
    labels = [token for row in block["labels"] for token in [-100, *row[1:]]]
    positions = [position for row in block["labels"] for position in range(len(row))]
    columns = {"input_ids": [token for row in block["input_ids"] for token in row], "labels": labels, "position_ids": positions}
    return {name: np.asarray(values, dtype=np.int32) for name, values in columns.items()}


@dataclass(frozen=True, slots=True)
class CausalCollator:
    """Makes a batch of token rows: padded to the longest with labels of -100, and with a 4-D attention mask if they are packed.

    That mask, float32 of shape (batch, 1, tokens, tokens), is added to the attention logits; transformers takes it as it is for
    eager and sdpa attention. Under it a token sees the earlier tokens of its own example, so a model with sliding windows must
    have windows that no example exceeds. Flash and flex attention do not take such a mask.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """Collate.

        Raises:
            InputError: packed rows that lost their `position_ids` because the model does not take them.
        """
        if "attention_mask" in examples[0]:
            return DataCollatorForSeq2Seq(self.tokenizer, label_pad_token_id=-100)(examples)
        # The Trainer drops columns that the model's forward does not name; without this one examples would see each other.
        if "position_ids" not in examples[0]:
            raise InputError("packed examples need position_ids, which the model does not take; train without packing")
        positions = _padded(examples, "position_ids", 0)
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        return {
            "input_ids": _padded(examples, "input_ids", self.tokenizer.pad_token_id),
            "labels": _padded(examples, "labels", -100),
            "position_ids": positions,
            "attention_mask": block_mask(positions, lengths),
        }


def _padded(examples: list[dict[str, Any]], name: str, fill: int) -> Tensor:
    rows = [torch.as_tensor(example[name], dtype=torch.long) for example in examples]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def block_mask(positions_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The additive mask under which a token sees itself and the earlier tokens of its own example.

    Padding sees the first token of its row, because a softmax over nothing is NaN, and not itself, by which it is known.

    Args:
        positions_BT: (batch, tokens), 0 where an example begins.
        lengths_B: tokens of each row before its padding.

    Returns:
        (batch, 1, tokens, tokens), float32: 0 where the second token is seen by the first.
    """
    tokens = positions_BT.shape[1]
    # Number of the example that a token belongs to. Padding has position 0 too, so each padding token is an example of its own.
    example_BT = (positions_BT == 0).cumsum(1)
    real_BT = torch.arange(tokens) < lengths_B[:, None]
    # (batch, token that sees, token seen): of one example, and the one that sees is no padding.
    seen_BTT = (example_BT[:, :, None] == example_BT[:, None, :]) & real_BT[:, :, None]
    seen_BTT &= torch.ones(tokens, tokens, dtype=torch.bool).tril()
    seen_BTT[:, :, 0] |= ~real_BT
    # The most negative finite number, as in transformers' own masks, and not minus infinity. The new axis is that of the heads.
    return torch.zeros(seen_BTT.shape).masked_fill(~seen_BTT, torch.finfo(torch.float32).min)[:, None]
