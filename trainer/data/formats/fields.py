"""A row's fields under the names that the formats have for them, and what is asked of a field."""

import json
from collections.abc import Mapping
from typing import Any

from spectra import InputError

Row = Mapping[str, Any]


class Fields(dict[str, Any]):
    """A row of a file: field -> value. It knows which column each field stands in."""

    def __init__(self, values: Row, columns: Mapping[str, Any] | None = None, roles: Mapping[str, str] | None = None) -> None:
        """Take the values.

        Args:
            values: field -> value.
            columns: field -> the column that holds it, where its name is another; several columns of one field as a tuple.
            roles: a speaker's name -> the role that it is known to have.
        """
        super().__init__(values)
        self._columns, self.roles = columns or {}, roles or {}

    def held(self, field: str) -> Any:
        """The column that holds a field, or the tuple of those that hold it together."""
        return self._columns.get(field, field)

    def column(self, field: str) -> str:
        """The name under which the file's owner knows a field."""
        column = self.held(field)
        return column if isinstance(column, str) else ", ".join(column)

    def having(self, **changed: Any) -> "Fields":
        """The same row with other values in some fields."""
        return Fields({**self, **changed}, self._columns, self.roles)

    def needed(self, field: str) -> str:
        """A field's text.

        Raises:
            InputError: no text, or nothing but blanks.
        """
        return needed(self.get(field), self.column(field))

    def optional(self, field: str) -> str:
        """A field's text; nothing where it is missing or blank.

        Raises:
            InputError: a value that is no text.
        """
        value = self.get(field)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{self.column(field)} is {shown(value)}; it must be text or left out")
        return value if value and value.strip() else ""

    def parsed(self, field: str) -> Any:
        """A field's value; of a text that is a list or an object in JSON, as a CSV file has to hold it, the list or object.

        Raises:
            InputError: a text that begins as JSON and is none.
        """
        return parsed(self.get(field), self.column(field))


def needed(value: Any, name: str) -> str:
    """A text that is not blank.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} is {shown(value)}; it must be text that is not blank")
    return value


def parsed(value: Any, name: str) -> Any:
    """A value, read as JSON where it is a text that begins like a list or an object.

    Raises:
        InputError: a text that begins so and is no JSON.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InputError(f"{name} is {shown(value)}; it begins as JSON and is none") from None


def shown(value: object) -> str:
    """A value, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
