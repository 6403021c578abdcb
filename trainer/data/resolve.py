"""Settings of data that are left open, fixed once: from the data, the model, the memory and the day."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from spectra import Checkpoint, InputError
from spectra.core.distributed import is_main_process
from spectra.core.log import LOG
from trainer.data.chat.switches import LOOKED_AT, switch_for
from trainer.data.chat.writer import Writer
from trainer.data.examples import Texts
from trainer.limits import length_in_memory, positions
from trainer.settings import DataSettings, Exact

LEAST = 64  # tokens: shorter rows are no use, and a machine that cannot hold them will say so itself
PACKED = 2048  # tokens of a packed row, where no example is longer
ROUND = 32
ROWS = {"messages": "conversations", "completion": "prompts and completions"}
OF_CONVERSATIONS = ("turns", "role_map", "chat_template", "template_option", "template_date")
NEEDED = dict.fromkeys(OF_CONVERSATIONS, "messages") | {"join": "completion"}
"""Setting -> the column of canonical rows that it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one training pass is made of."""

    rows: int
    precision: Exact
    recompute: bool = False
    packing: bool = False


def resolved_data(
    settings: DataSettings,
    texts: Sequence[Texts],
    tokenizer: Any,
    checkpoint: Checkpoint,
    made: Pass,
    noted: DataSettings | None = None,
) -> DataSettings:
    """The settings, with everything that was left open.

    Args:
        settings: as they were given.
        texts: the files to train on.
        tokenizer: the model's own, with the template to use.
        checkpoint: the model.
        made: the passes that training will make.
        noted: what the run that is resumed found when it was begun.
    """
    found: dict[str, Any] = {}
    if settings.max_length == "auto":
        found["max_length"] = noted.max_length if noted else _length(checkpoint, made)
    if tokenizer.chat_template and any("messages" in part.rows.column_names for part in texts):
        # What was begun goes on, unless other options are asked for now: then the run is another, and is refused as such.
        goes_on = noted and settings.template_options().items() <= noted.template_options().items()
        option = noted.template_option if noted and goes_on else _option(settings, texts, tokenizer)
        found["template_option"] = option or settings.template_option
        if settings.template_date is None:
            found["template_date"] = noted.template_date if noted else Writer(tokenizer, settings).day or None
    return settings.model_copy(update=found)


def _option(settings: DataSettings, texts: Sequence[Texts], tokenizer: Any) -> str | None:
    """The template's options with a thinking switch that the data's answers need."""
    rows = [row for part in texts if "messages" in part.rows.column_names for row in islice(part.rows, LOOKED_AT)]
    if settings.loss_on == "all" or not (option := switch_for(rows, tokenizer, settings)):
        return settings.template_option
    if is_main_process():
        LOG.info(
            f"the chat template is given {option}, so that answers begin as they are asked for; `template_option` changes it"
        )
    return ",".join(part for part in (settings.template_option, option) if part)


def _length(checkpoint: Checkpoint, made: Pass) -> int:
    """The tokens per row that the model has positions for and the memory holds."""
    width = 2 if made.precision == "bf16" else 4
    held = length_in_memory(checkpoint, made.rows, width, recompute=made.recompute)
    limits = [limit for limit in (positions(checkpoint), max(held, LEAST), PACKED if made.packing else None) if limit]
    most = min(limits)
    # A round number, because the estimate is none; but not where the model's own limit is smaller.
    return most // ROUND * ROUND if most > ROUND else most


def require_rows(settings: DataSettings, parts: Sequence[Texts]) -> None:
    """Refuse settings of rows that no file has.

    Raises:
        InputError: naming the first.
    """
    usual, columns = DataSettings(), {column for part in parts for column in part.rows.column_names}
    for name, needed in NEEDED.items():
        if getattr(settings, name) != getattr(usual, name) and needed not in columns:
            raise InputError(f"`{name}` has no effect on data without {ROWS[needed]}; leave it out")
