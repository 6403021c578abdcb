"""Rows of plain text, of labels, and of prompts with completions."""

from typing import Any

from spectra import InputError
from trainer.data.formats.fields import Fields, shown


def text(row: Fields) -> dict[str, Any]:
    """A text, learned whole."""
    return {"text": row.needed("text")}


def classification(row: Fields) -> dict[str, Any]:
    """A text and its label, which may be a number; a name beside it goes before the number."""
    return text(row) | {"label": _label(row)}


def pair_classification(row: Fields) -> dict[str, Any]:
    """Two texts and the label of the pair."""
    return {"text": row.needed("first"), "pair": row.needed("second"), "label": _label(row)}


def _label(row: Fields) -> str:
    field = "label_name" if row.get("label_name") not in (None, "") else "label"
    value = row.get(field)
    # Not `if not label`: 0 and False are labels.
    if value is None or value == "":
        raise InputError(f"{row.column(field)} is missing; every row needs a label")
    if isinstance(value, list | dict):
        raise InputError(f"{row.column(field)} is {shown(value)}; a row must have one label")
    return str(value)


def completion(row: Fields) -> dict[str, Any]:
    """A prompt and its completion, which are joined as they are."""
    return {"prompt": row.needed("prompt"), "completion": row.needed("completion")}


def segments(row: Fields) -> dict[str, Any]:
    """Stretches of text, each with whether it is learned, written as they stand (axolotl's input_output)."""
    name, found = row.column("segments"), row.parsed("segments")
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise InputError(f"{name} is {shown(found)}; it must be a list of {{label, text}}")
    for number, part in enumerate(found):
        if not isinstance(part.get("text"), str) or part.get("label") not in (True, False):
            raise InputError(f"{name}[{number}] is {shown(part)}; it must have a text, and a label that is true or false")
    if not any(part["label"] and part["text"] for part in found):
        raise InputError(f"{name} has nothing that is to be learned; remove the row")
    return {"segments": [{"text": part["text"], "learned": bool(part["label"])} for part in found]}
