"""The one way to import: cli -> trainer -> planner -> spectra, and inside each from later rooms to earlier ones."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["spectra", "planner", "trainer", "cli"]
# The rooms of a package in the order of its data: a room imports from itself and from rooms before it.
ROOMS = {
    "spectra": [
        "core", "checkpoint", "estimators", "settings", "metrics", "report", "eigenvalues", "uncertainty", "storage", "spectrum",
        "analysis", "views", "commands",
    ],
    "planner": [
        "modules", "sensitivity", "evidence", "strategies", "settings", "solver", "plan", "notes", "allocation", "views",
        "exporters", "commands",
    ],
    "trainer": [
        "run_folder", "quiet", "routers", "initializers", "settings", "report", "base_model", "limits", "data", "layers",
        "adapters", "training", "evaluation", "attribution", "study", "views", "probing", "preview", "recipes", "demo",
        "commands",
    ],
}  # fmt: skip
MOST_FILES = 12  # in one folder, without its __init__.py: more doors than a stranger can read


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def sources(layer):
    return [ROOT / "cli.py"] if layer == "cli" else sorted((ROOT / layer).rglob("*.py"))


def room_of(path):
    """The folder below the package that a file is in, or its own name."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_imports_backwards(layer):
    later = LAYERS[LAYERS.index(layer) + 1 :]
    for path in sources(layer):
        backward = [name for name in imported(path) if name.partition(".")[0] in later]
        assert not backward, f"{path} imports {backward}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_from_earlier_rooms_only(package):
    rooms = ROOMS[package]
    inside = [path for path in sources(package) if path.parent != ROOT / package or path.name != "__init__.py"]
    assert {room_of(path) for path in inside} == set(rooms)
    for path in inside:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1:
                assert rooms.index(parts[1]) <= rooms.index(room_of(path)), f"{path} imports {name}, a later room"


def test_no_folder_has_more_doors_than_a_stranger_can_read():
    for package in ROOMS:
        for folder in [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]:
            files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, f"{folder}: {files}"


def test_no_cycle_between_modules():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): set(imported(path))
        for layer in LAYERS
        for path in sources(layer)
        if path.parent.name not in LAYERS[:3] or path.name != "__init__.py"
    }
    done = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module in modules and module not in done:
            for other in sorted(modules[module]):
                visit(other, [*trail, module])
            done.add(module)

    for module in sorted(modules):
        visit(module, [])


def test_every_module_has_its_test_file():
    """tests/ mirrors the packages; the table in a room's __init__.py is tested in test_table.py."""
    for package in ROOMS:
        for path in sources(package):
            relative = path.relative_to(ROOT)
            if path.name == "__init__.py":
                if relative.parent.name not in ("estimators", "strategies", "routers", "initializers"):
                    continue
                relative = relative.parent / "table.py"
            assert (ROOT / "tests" / relative.parent / f"test_{relative.name}").is_file(), f"{relative} has no test file"


@pytest.mark.parametrize("package", LAYERS[:3])
def test_public_names_exist_are_sorted_and_documented(package):
    module = __import__(package)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert len(module.__all__) <= 14
    for name in module.__all__:
        thing = getattr(module, name)
        assert not callable(thing) or thing.__doc__, f"{package}.{name} has no docstring"


HEAVY = ("torch", "transformers", "scipy", "matplotlib", "pandas", "datasets")


@pytest.mark.training
@pytest.mark.parametrize(
    "command", ["--help", "train --help", "allocate --help", "show {plan} --json", "show {plan}", "check {plan} {model}"]
)
def test_looking_at_a_plan_loads_nothing_heavy(command, uniform_plan, minilm, tmp_path):
    uniform_plan.save(tmp_path / "plan.json")
    arguments = command.format(plan=tmp_path / "plan.json", model=minilm).split()
    script = f"""
import sys, cli
try:
    cli.main({arguments!r})
except SystemExit as end:
    assert end.code == 0, end.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stderr.strip() == "[]"


@pytest.mark.training
@pytest.mark.parametrize("package", LAYERS[:3])
def test_importing_a_package_loads_no_torch(package):
    script = f"import sys, {package}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.training
@pytest.mark.parametrize("folder", ["benchmarks", "benchmarks/does_it_pay", "benchmarks/study"])
def test_every_script_of_the_benchmarks_still_finds_what_it_imports(folder):
    names = sorted(path.stem for path in (ROOT / folder).glob("*.py"))
    script = f"import importlib; [importlib.import_module(name) for name in {names}]"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT / folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


FLAG = r"(?<![\w-])--[a-z]"


def test_the_library_does_not_speak_of_options():
    """Messages name settings in backticks, which the command line turns into its options; only commands know those."""
    at_home = {"commands.py", "terminal.py", "classifier.py", "language.py", "errors.py"}  # the last explains the rule
    at_home |= {"run.py", "steps.py"}  # recipes are made of options
    for package in ROOMS:
        for path in sources(package):
            if path.name in at_home:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "torchrun" not in node.value:
                    assert not re.search(FLAG, node.value), f"{path}:{node.lineno}: {node.value[:80]!r}"
