"""Values and files: what every report and plan is made of, and how it reaches the disk.

A value is frozen and refuses unknown keys. A document is a value with a kind and a schema version that is written as sorted JSON,
one site per line, so that two versions of a file diff cleanly. Files appear whole or not at all.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema

from spectra.core.errors import InputError
from spectra.core.files import read_json, write_atomic


def _nan_if_none(value: object) -> object:
    return math.nan if value is None else value


# A measured quantity. NaN, never a sentinel, when it could not be measured; JSON has no NaN, so it is `null` on disk.
Measured = Annotated[float, BeforeValidator(_nan_if_none), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]


class Value(BaseModel):
    """Base of everything that crosses a package border: immutable, strict about its keys."""

    # Docstrings of fields become the help of options and the descriptions in schemas. Defaults are validated because one that
    # names a method has to be read as a `Chosen`, as if it had been given.
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="null", use_attribute_docstrings=True, validate_default=True
    )

    @classmethod
    def checked(cls, data: object, source: str | Path) -> Self:
        """Validate data that a user gave.

        Raises:
            InputError: the first fault, after the name of its source.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{source}: {_first_fault(error)}") from None


class Document(Value):
    """A value with a file format of its own. A subclass gives `kind` its name; `schema_version` counts incompatible changes."""

    kind: str
    schema_version: Literal[2] = 2

    def save(self, path: str | Path) -> None:
        """Write the document to `path`, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        write_atomic(path, self.to_json())

    def sha256(self) -> str:
        """Hash of the document's canonical text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The document as stable text: keys sorted, each element of a top-level list on a line of its own."""
        lines = [f'"{key}": {_layout(value)}' for key, value in sorted(json.loads(self.model_dump_json()).items())]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a document of this class.

        Raises:
            InputError: no such file, not JSON, another kind or version, or a field that is unknown, missing or wrong.
        """
        data = read_json(path, finite=True)
        # Kind and version before the fields: a foreign or old file would otherwise be told that some field is missing.
        expected, found = cls.model_fields["kind"].default, data.get("kind") if isinstance(data, dict) else None
        if found != expected:
            raise InputError(f"{path}: expected a {expected!r} file, found kind {found!r}")
        reads = cls.model_fields["schema_version"].default
        if (version := data.get("schema_version")) != reads:
            raise InputError(
                f"{path}: schema version {version!r} cannot be read by this loraplan (it reads {reads}); make the file again"
            )
        return cls.checked(data, path)


def _layout(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join("  " + json.dumps(item, sort_keys=True) for item in value) + "\n]"
    return json.dumps(value, sort_keys=True)


def _first_fault(error: ValidationError) -> str:
    # A value of one of several types is at fault once for each of them, told apart by the last part of its place.
    faults = {_place(fault): fault for fault in reversed(error.errors(include_url=False))}
    where, fault = list(faults.items())[-1]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if fault["type"] == "value_error":  # raised by our own validators, whose messages name the place and the value
        return f"{fault['ctx']['error']}{more}"
    shown = repr(fault["input"])
    return f"{where}: {fault['msg']}, got {shown if len(shown) <= 80 else shown[:77] + '...'}{more}"


def _place(fault: Any) -> str:
    return ".".join(str(part) for part in fault["loc"] if not re.match(r"constrained-|literal\[", str(part)))
