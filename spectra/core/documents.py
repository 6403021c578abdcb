"""Values and files: what every report and plan is made of, and how it reaches the disk.

A value is frozen and refuses unknown keys. A document is a value with a kind and a schema version that is written as sorted JSON,
one site per line, so that two versions of a file diff cleanly. Files appear whole or not at all.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what, where, the value, and what to do."""


def _nan_if_none(value: object) -> object:
    return math.nan if value is None else value


# A measured quantity. NaN, never a sentinel, when it could not be measured; JSON has no NaN, so it is `null` on disk.
Measured = Annotated[float, BeforeValidator(_nan_if_none), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]


class Value(BaseModel):
    """Base of everything that crosses a package border: immutable, strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", use_attribute_docstrings=True)

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
    schema_version: Literal[1] = 1

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
        data = read_json(path)
        expected, found = cls.model_fields["kind"].default, data.get("kind") if isinstance(data, dict) else None
        if found != expected:
            raise InputError(f"{path}: expected a {expected!r} file, found kind {found!r}")
        if (version := data.get("schema_version")) != 1:
            raise InputError(
                f"{path}: schema version {version!r} cannot be read by this loraplan (it reads 1); make the file again"
            )
        return cls.checked(data, path)


def _layout(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join("  " + json.dumps(item, sort_keys=True) for item in value) + "\n]"
    return json.dumps(value, sort_keys=True)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "value_error":  # raised by our own validators, whose messages name the place and the value
        return f"{fault['ctx']['error']}{more}"
    where = ".".join(str(part) for part in fault["loc"])
    shown = repr(fault["input"])
    return f"{where}: {fault['msg']}, got {shown if len(shown) <= 80 else shown[:77] + '...'}{more}"


def read_json(path: str | Path) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: the file is missing, unreadable or not JSON (with the line).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def require_writable(path: str | Path) -> Path:
    """Refuse, before any work is done, a place that no file can be put in; a link is followed.

    Returns:
        The real path.

    Raises:
        InputError: a folder, a device, or a place below a file.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{str(path)!r} is no file name")
    real = path.resolve()
    if real.exists() and not real.is_file():
        raise InputError(f"{path}: cannot write: {'a folder' if real.is_dir() else 'not a regular file'}")
    above = next(folder for folder in real.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot write: {above} is {'not writable' if above.is_dir() else 'a file'}")
    return real


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it into place, so that no reader ever sees half a file.

    Raises:
        InputError: the folder cannot be made or the file cannot be written (no permission, disk full).
    """
    path = require_writable(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        if beside.exists():
            beside.unlink()
