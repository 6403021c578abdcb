"""The sources of the running Python's standard library: parsed for their docstrings, never imported."""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectra import InputError

TEST_SHARE = 0.25


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def sources(name: str) -> Iterator[tuple[str, Path]]:
    """A module's file, or every module of a package except its tests."""
    root = standard_library()
    if (root / f"{name}.py").is_file():
        yield name, root / f"{name}.py"
    for path in sorted((root / name).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not any(part.startswith("test") for part in parts):
            yield ".".join(part for part in parts if part != "__init__"), path


def documented(source: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module, class and function of a source that has a docstring, with it."""
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a broken file in somebody's Python is no reason to stop
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield node, text


def require_sources(found: int, wanted: int = 1000) -> None:
    """Refuse a Python without sources.

    Raises:
        InputError: fewer docstrings than a demo needs.
    """
    if found < wanted:
        raise InputError(f"{standard_library()}: too few docstrings; the sources of the standard library are not installed")


def split(modules: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Module -> `train` or `test`: in an order that depends on names alone, modules go to test while it holds too little."""
    wanted = TEST_SHARE * sum(len(texts) for texts in modules.values())
    held, parts = 0, {}
    # A digest instead of `hash`, which Python salts anew in every process.
    for module in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).digest()):
        # The first condition keeps one large module from taking a chapter far beyond its share.
        fits = held + len(modules[module]) <= 1.5 * wanted and held < wanted
        parts[module] = "test" if fits else "train"
        held += len(modules[module]) if fits else 0
    return parts
