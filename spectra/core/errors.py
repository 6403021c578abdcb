"""The one error that users cause, and how other libraries' errors are put into one line.

A message says what is wrong, where, with which value, and what to do. It names settings in backticks, as `max_experts`: a Python
caller finds the argument of that name, and the command line shows the option instead, `--max-experts`.
"""


class InputError(ValueError):
    """The user's input cannot be used. The message is one line: what, where, the value, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
