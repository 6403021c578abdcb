"""The standard library's sources, read and parsed, never imported."""

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

WORDS = (6, 24)  # of a sentence
Texts = Iterator[tuple[str, str]]
"""(text, label) pairs."""


@cache
def sources() -> tuple[tuple[str, str, ast.Module], ...]:
    """(path, text, tree) of every source file of the standard library that parses."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"site-packages", "lib2to3", "idlelib", "__pycache__"} & set(parts):
            continue
        try:
            text = path.read_text()
            found.append(("/".join(parts), text, ast.parse(text)))
        except (SyntaxError, ValueError, OSError):
            continue
    return tuple(found)


def docstrings(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every documented node of a source file, with its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            doc := ast.get_docstring(node)
        ):
            yield node, doc


def sentences(text: str) -> list[str]:
    """Sentences of plain words, in order."""
    found = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
        words = sentence.split()
        if WORDS[0] <= len(words) <= WORDS[1] and sum(word.strip(".,;:()'\"`").isalpha() for word in words) > 0.7 * len(words):
            found.append(" ".join(words))
    return found
