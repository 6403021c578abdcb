"""YAML files as plain texts: no value is code, a date or a number before whoever asked for it reads it as one."""

from pathlib import Path
from typing import Any

import yaml

from spectra.core.errors import InputError, first_line
from spectra.core.files import read_bytes


class _Loader(yaml.BaseLoader):
    """Texts, lists and mappings; a key that stands twice is a fault and not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            line = next(key.start_mark.line for key, _ in reversed(node.value) if key.value == twice) + 1
            raise InputError(f"line {line}: {twice!r} is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A mapping of texts, lists and mappings.

    Raises:
        InputError: missing, unreadable, not YAML, not a mapping, or with a key that stands twice.
    """
    try:
        found = yaml.load(read_bytes(path).decode("utf-8"), Loader=_Loader)
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a mapping of options to values")
    return found
