"""A Sphinx extension that lists the fields of settings and documents: type, default, meaning, and the choices of a table.

Sphinx's own view of a pydantic class is its constructor, with every annotation in full; here each field is an entry of its own.
"""

from collections.abc import Iterator
from dataclasses import is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx

from spectra.core.methods import OneOf


def setup(app: Sphinx) -> None:
    """Connect to autodoc; loaded after napoleon, which would read some sentences as types."""
    app.connect("autodoc-process-docstring", _describe)
    app.connect("autodoc-process-signature", _without_constructor)
    app.connect("autodoc-skip-member", _skip)


def _describe(_app: Sphinx, what: str, _name: str, found: Any, _options: object, lines: list[str]) -> None:
    # |x| is an absolute value, which reStructuredText would take for a substitution.
    lines[:] = [line if line.lstrip().startswith(">>>") else line.replace("|", r"\|") for line in lines]
    if what == "class" and issubclass(found, BaseModel):
        for name, field in found.model_fields.items():
            lines += ["", f".. py:attribute:: {name}", *_options_of(field), "", *_meaning(field)]


def _options_of(field: FieldInfo) -> Iterator[str]:
    yield f"   :type: {_shown(field.annotation)}"
    if not field.is_required():
        default = field.get_default(call_default_factory=True)
        yield f"   :value: {default if isinstance(default, float) else repr(default)}"


def _meaning(field: FieldInfo) -> Iterator[str]:
    for line in (field.description or "").replace("|", r"\|").splitlines():
        yield f"   {line}"
    for mark in field.metadata:
        if isinstance(mark, OneOf):
            yield f"   One of {', '.join(f'`{choice}`' for choice in mark.table)}."


def _shown(annotation: Any) -> str:
    """A type as a reader would write it, without the checks that annotations carry."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shown(parts[0])
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_shown, parts))
    if origin is not None:
        return f"{_shown(origin)}[{', '.join(map(_shown, parts))}]"
    if annotation in (None, type(None)):
        return "None"
    return "..." if annotation is ... else getattr(annotation, "__name__", str(annotation))


class _Current:
    """The class that autodoc is at: its signature is asked for before its members."""

    fields: frozenset[str] = frozenset()


def _without_constructor(
    _app: Sphinx, _what: str, _name: str, found: object, _options: object, _signature: str | None, _returned: str | None
) -> tuple[str, str] | None:
    if not isinstance(found, type):
        return None
    _Current.fields = frozenset(found.model_fields) if issubclass(found, BaseModel) else frozenset()
    return ("", "") if _Current.fields or is_dataclass(found) else None


def _skip(_app: Sphinx, _what: str, name: str, _found: object, _skipped: bool, _options: object) -> bool | None:
    return True if name in _Current.fields else None  # listed already
