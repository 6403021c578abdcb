"""The one error that users cause."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what, where, the value, and what to do."""
