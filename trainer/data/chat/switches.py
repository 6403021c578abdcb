"""Thinking switches of chat templates, set so that answers begin as they are asked for."""

from collections.abc import Sequence
from itertools import product

import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from spectra import InputError
from trainer.data.chat.template import TooSlowError
from trainer.data.chat.writer import Writer
from trainer.data.formats import Row
from trainer.settings import DataSettings

SWITCHES = ("enable_thinking", "thinking")
LOOKED_AT = 64  # conversations from which a switch is chosen


def switch_for(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, settings: DataSettings) -> str:
    """The option under which a template asks for answers as the data's answers begin, such as enable_thinking=false.

    Args:
        rows: canonical, with messages.
        tokenizer: with the template.
        settings: whose own options stay as they are.

    Returns:
        The option; nothing where answers begin so already, or where no switch makes more of them do so.
    """
    names = [name for name in SWITCHES if name in _inputs(tokenizer) and name not in settings.template_options()]
    shown = rows[:LOOKED_AT]
    best, most = "", _agreeing(shown, tokenizer, settings)
    for name, value in product(names if most < len(shown) else (), ("false", "true")):
        option = f"{name}={value}"
        given = ",".join(part for part in (settings.template_option, option) if part)
        found = _agreeing(shown, tokenizer, settings.model_copy(update={"template_option": given}))
        if found > most:
            best, most = option, found
    return best


def _inputs(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    try:
        parsed = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(str(tokenizer.chat_template))
        return set(jinja2.meta.find_undeclared_variables(parsed))
    except jinja2.TemplateError:  # marks of generation, or a template that rendering will refuse in its own words
        return {name for name in SWITCHES if name in str(tokenizer.chat_template)}


def _agreeing(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, settings: DataSettings) -> int:
    writer, count = Writer(tokenizer, settings), 0
    for row in rows:
        try:
            count += writer.begins_as_asked(row)
        except TooSlowError:
            raise
        except InputError:  # writing the row will say it
            continue
    return count
