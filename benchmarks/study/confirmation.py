"""Five tasks that no rule was chosen on."""

import ast
import random
from collections.abc import Callable

from library import Texts, docstrings, sentences

CLOSING = {")": "round", "]": "square", "}": "curly"}
LITTLE = {"the", "a", "an", "of", "to", "is", "in", "be", "for", "that"}
VERBS = ("return", "test", "create", "make", "read", "set", "check", "convert", "add", "get", "write", "call")
LITERALS = {bool: "bool", int: "int", str: "str", type(None): "None"}


def bracket(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Which kind of closing bracket a line of code lacks, if any."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Expr | ast.Return) and random.random() < 0.5:
            code = ast.unparse(node)
            found = [at for at, sign in enumerate(code) if sign in CLOSING]
            if len({code[at] for at in found}) < 2 or not 15 < len(code) < 80 or "\n" in code:
                continue
            at = random.choice(found)
            whole = random.random() < 0.25
            yield code if whole else code[:at] + code[at + 1 :], "none" if whole else CLOSING[code[at]]


def nesting(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """How deeply the calls of an expression are nested (1 to 3)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Expr | ast.Return) and 1 <= (depth := _calls(node)) <= 3:
            code = ast.unparse(node)
            if 15 < len(code) < 80 and "\n" not in code and random.random() < (0.1, 0.3, 1.0)[depth - 1]:
                yield code, str(depth)


def _calls(node: ast.AST) -> int:
    return isinstance(node, ast.Call) + max((_calls(child) for child in ast.iter_child_nodes(node)), default=0)


def verb(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Which verb a docstring began with, before it was taken off."""
    for _, doc in docstrings(tree):
        first, *rest = doc.split()[:20] or [""]
        stem = first.lower().removesuffix("s")
        if stem in VERBS and len(rest) > 3:
            yield " ".join(rest), stem


def literal(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """What kind of value a name or argument is given."""
    for node in ast.walk(tree):
        values: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.Assign):
            values = [(ast.unparse(node.targets[0]), node.value)]
        elif isinstance(node, ast.Call):
            values = [(f"{ast.unparse(node.func)} {word.arg}", word.value) for word in node.keywords if word.arg]
        for name, value in values:
            kind = LITERALS.get(type(value.value)) if isinstance(value, ast.Constant) else type(value).__name__.lower()
            if kind in {*LITERALS.values(), "list", "dict", "tuple"} and 4 < len(name) < 80:
                yield f"{name} = [MASK]", kind


def missing(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether a sentence lacks one of its little words."""
    for sentence in (sentence for _, doc in docstrings(tree) for sentence in sentences(doc)):
        words = sentence.split()
        little = [at for at, word in enumerate(words[1:], 1) if word in LITTLE]
        if little:
            whole, at = random.random() < 0.5, random.choice(little)
            yield " ".join(words if whole else words[:at] + words[at + 1 :]), "whole" if whole else "missing"


TASKS: dict[str, Callable[[random.Random, str, str, ast.Module], Texts]] = {
    task.__name__: task for task in (bracket, nesting, verb, literal, missing)
}
