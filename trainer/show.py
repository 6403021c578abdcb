"""Evaluations for people."""

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table

from trainer.reports import Score


def score_table(rows: Mapping[str, Score], examples: int) -> Table:
    """Loss and accuracy (or perplexity, for a language model) of several answers to the same examples."""
    language = all(math.isnan(score.accuracy) for score in rows.values())
    table = Table("answer", title=f"{examples:,} held-out texts", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("perplexity" if language else "accuracy", justify="right")
    table.add_column("loss", justify="right")
    for name, score in rows.items():
        if not math.isnan(score.loss):
            first = f"{math.exp(score.loss):.2f}" if language else f"{100 * score.accuracy:.1f}%"
            table.add_row(name, first, f"{score.loss:.3f}")
    return table
