"""Fifteen text classification tasks of different kinds, from sources that every Python has: its own standard library.

A source file's texts stand either in training or in test, no text occurs twice in a task, and labels are balanced as far as the
sources allow. Rules are chosen on DEVELOPMENT and reported on HELD_OUT, and what HELD_OUT taught is reported on CONFIRMATION,
whose tasks are in confirmation.py.

    python benchmarks/study/tasks.py -o tasks/
"""

import ast
import hashlib
import io
import json
import random
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click
import confirmation
from library import Texts, docstrings, sentences, sources

from trainer.demo.classifier import CHAPTERS

TRAIN, TEST = 6000, 3000
TEST_SHARE = 3  # of 10 source files
DEVELOPMENT = ("topic", "corruption", "indent", "follows")
HELD_OUT = ("order", "operator", "syntax", "role", "typo", "arguments")
CONFIRMATION = tuple(confirmation.TASKS)
OPERATORS = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.Gt: ">", ast.In: "in", ast.Is: "is", ast.Add: "+", ast.Sub: "-",
    ast.Mult: "*", ast.Mod: "%",
}  # fmt: skip


def topic(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Which chapter of the library reference a sentence is from (16 classes)."""
    top = path.split("/")[0].removesuffix(".py")
    for chapter, names in CHAPTERS.items():
        if top in names.split():
            yield from ((sentence, chapter) for _, doc in docstrings(tree) for sentence in sentences(doc))


def corruption(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether a sentence is intact, has two neighbouring words swapped, or one word replaced by another of the same file."""
    known = [sentence.split() for _, doc in docstrings(tree) for sentence in sentences(doc)]
    group = [word for words in known for word in words]
    for words in known:
        label, at = random.choice(("intact", "swapped", "replaced")), random.randrange(len(words) - 1)
        if label == "swapped":
            words[at : at + 2] = words[at + 1], words[at]
        elif label == "replaced":
            words[at] = random.choice(group)
        yield " ".join(words), label


def indent(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether the line after these two lines of code is indented more, less or the same."""
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    for first, second, third in zip(lines, lines[1:], lines[2:], strict=False):
        if random.random() < 0.1 and 12 < len(first.strip()) < 60 and 6 < len(second.strip()) < 60:
            step = len(third) - len(third.lstrip()) - len(second) + len(second.lstrip())
            deeper = len(second) - len(second.lstrip()) - len(first) + len(first.lstrip())
            shown = f"{first.strip()} {'>' if deeper > 0 else '<' if deeper < 0 else '|'} {second.strip().rstrip(':')}"
            yield shown, "more" if step > 0 else "less" if step < 0 else "same"


def follows(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether the second sentence really follows the first, or comes from elsewhere in the same file."""
    docs = [sentences(doc) for _, doc in docstrings(tree)]
    group = [sentence for doc in docs for sentence in doc]
    for doc in docs:
        for first, second in pairwise(doc):
            real = random.random() < 0.5
            yield f"{first} [SEP] {second if real else random.choice(group)}", "yes" if real else "no"


def order(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether the two parts of a sentence stand in their order; capital and full stop, which would tell, are taken off."""
    for sentence in (sentence for _, doc in docstrings(tree) for sentence in sentences(doc)):
        words = sentence.rstrip(".!?:").lower().split()
        at = random.randint(2, len(words) - 2)
        kept = random.random() < 0.5
        yield " ".join(words if kept else words[at:] + words[:at]), "kept" if kept else "turned"


def operator(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Which operator stands at the gap of an expression (10 classes)."""
    for node in ast.walk(tree):
        simple = isinstance(node, ast.BinOp) or (isinstance(node, ast.Compare) and len(node.ops) == 1)
        if not simple or not hasattr(node, "left"):
            continue
        sign = type(node.op) if isinstance(node, ast.BinOp) else type(node.ops[0])
        right = node.right if isinstance(node, ast.BinOp) else node.comparators[0]
        shown = f"{ast.unparse(node.left)} [MASK] {ast.unparse(right)}"
        if sign in OPERATORS and len(shown) < 80 and "%" not in shown:
            yield shown, OPERATORS[sign]


def syntax(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether a statement is whole or lacks one of its tokens and no longer parses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Expr | ast.Return | ast.Assert) and random.random() < 0.2:
            code = ast.unparse(node)
            if not 15 < len(code) < 80 or "\n" in code:
                continue
            whole = random.random() < 0.5
            shown = code if whole else _without_a_token(random, code)
            if shown:
                yield shown, "whole" if whole else "broken"


def _without_a_token(random: random.Random, code: str) -> str | None:
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.string.strip()]
    for token in random.sample(tokens, len(tokens)):
        shown = code[: token.start[1]] + code[token.end[1] :]
        try:
            ast.parse(shown.strip())
        except SyntaxError:
            return " ".join(shown.split())
    return None


def role(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """What a docstring documents: a module, class, function, method, test, property or special method."""
    owners = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node, doc in docstrings(tree):
        shown = " ".join(doc.split()[:20])
        if len(shown) < 20:
            continue
        if isinstance(node, ast.Module | ast.ClassDef):
            yield shown, "module" if isinstance(node, ast.Module) else "class"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield shown, _kind(node, isinstance(owners[node], ast.ClassDef))


def _kind(node: ast.FunctionDef | ast.AsyncFunctionDef, in_class: bool) -> str:
    if node.name.startswith("test"):
        return "test"
    if any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
        return "property"
    return "special" if node.name.startswith("__") else "method" if in_class else "function"


def typo(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """Whether two neighbouring letters of one word of a sentence are swapped."""
    for sentence in (sentence for _, doc in docstrings(tree) for sentence in sentences(doc)):
        words = sentence.split()
        long = [at for at, word in enumerate(words) if word.isalpha() and len(word) > 4]
        if not long:
            continue
        clean, at = random.random() < 0.5, random.choice(long)
        if not clean:
            letter = random.randrange(1, len(words[at]) - 2)
            word = words[at]
            words[at] = word[:letter] + word[letter + 1] + word[letter] + word[letter + 2 :]
            if words[at] == word:
                continue
        yield " ".join(words), "clean" if clean else "typo"


def arguments(random: random.Random, path: str, text: str, tree: ast.Module) -> Texts:
    """How many arguments the outermost call has (1 to 5); inner calls, tuples and strings have commas of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and 1 <= (count := len(node.args) + len(node.keywords)) <= 5:
            code = ast.unparse(node)
            if 20 < len(code) < 80 and "\n" not in code and random.random() < 0.3:
                yield code, str(count)


TASKS: dict[str, Callable[[random.Random, str, str, ast.Module], Texts]] = {
    task.__name__: task for task in (topic, corruption, indent, follows, order, operator, syntax, role, typo, arguments)
} | confirmation.TASKS


def build(name: str) -> dict[str, list[dict[str, str]]]:
    """Rows of one task: `train` and `test`, each at most as many as asked for, no label more than twice as frequent as fair."""
    seen: set[str] = set()
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path, text, tree in sources():
        digest = hashlib.sha256(path.encode()).digest()
        part = "test" if digest[0] % 10 < TEST_SHARE else "train"
        for shown, label in TASKS[name](random.Random(digest + name.encode()), path, text, tree):
            if shown.lower() not in seen:
                seen.add(shown.lower())
                rows[part].append({"text": shown, "label": label})
    return {part: _balanced(rows[part], most) for part, most in (("train", TRAIN), ("test", TEST))}


def _balanced(rows: list[dict[str, str]], most: int) -> list[dict[str, str]]:
    random.Random(0).shuffle(rows)
    fair, kept, counts = 2 * most / len({row["label"] for row in rows}), [], Counter[str]()
    for row in rows:
        if counts[row["label"]] < fair and len(kept) < most:
            counts[row["label"]] += 1
            kept.append(row)
    return kept


def write(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a task's `train` and `test` files, unless they are there; the test file's name is the task's."""
    train, test = folder / "train" / f"{name}.jsonl", folder / "test" / f"{name}.jsonl"
    if not train.exists():
        for part, path in (("test", test), ("train", train)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in build(name)[part]))
    return train, test


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="tasks")
def main(output: Path) -> None:
    """Write all tasks and say how large they are."""
    for name in TASKS:
        for path in write(output, name):
            labels = Counter(json.loads(line)["label"] for line in path.open())
            click.echo(f"{path}: {labels.total():,} texts, {dict(labels.most_common())}")


if __name__ == "__main__":
    main()
