"""Docstrings of the standard library: found, and split by module."""

import ast

import pytest

from spectra import InputError
from trainer.demo import docstrings
from trainer.demo.docstrings import documented, require_sources, sources, split


def test_sources_of_a_package_are_its_modules_without_tests():
    found = dict(sources("json"))
    assert {"json", "json.decoder", "json.encoder"} <= found.keys()
    assert all(path.is_file() for path in found.values())
    assert dict(sources("no_such_module")) == {}


def test_everything_with_a_docstring_is_found(tmp_path):
    file = tmp_path / "a.py"
    file.write_text('"""M."""\nclass C:\n    """K."""\n    def f(self):\n        "F."\n    def g(self): pass\n')
    assert [(type(node).__name__, text) for node, text in documented(file)] == [
        ("Module", "M."), ("ClassDef", "K."), ("FunctionDef", "F.")
    ]  # fmt: skip
    file.write_text("def broken(:")
    assert list(documented(file)) == []
    assert isinstance(next(iter(documented(docstrings.standard_library() / "ast.py")))[0], ast.Module)


def test_modules_are_split_by_name_alone():
    modules = {f"m{n}": ["text"] * (1 + n % 5) for n in range(40)}
    parts = split(modules)
    assert parts == split(dict(reversed(modules.items())))
    held = sum(len(modules[name]) for name, part in parts.items() if part == "test")
    assert 0.2 < held / sum(map(len, modules.values())) < 0.4


def test_a_python_without_sources_is_one_line():
    with pytest.raises(InputError, match="too few docstrings; the sources of the standard library are not installed"):
        require_sources(5)
