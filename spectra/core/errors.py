"""The one error that users cause, and how other libraries' errors are put into one line.

A message says what is wrong, where, with which value, and what to do. It names settings in backticks, as `max_experts`: a Python
caller finds the argument of that name, and the command line shows the option instead, `--max-experts`.
"""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class InputError(ValueError):
    """The user's input cannot be used. The message is one line: what, where, the value, and what to do."""


def visible(text: str) -> str:
    """A text with its control characters written out, lines and tabs aside: a name in a file could move the cursor."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of what another library says, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
