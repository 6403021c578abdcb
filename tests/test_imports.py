"""The one way to import: cli -> trainer -> planner -> spectra. And what must not be loaded by whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["spectra", "planner", "trainer", "cli"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def sources(layer):
    return [ROOT / "cli.py"] if layer == "cli" else sorted((ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_imports_backwards(layer):
    later = LAYERS[LAYERS.index(layer) + 1 :]
    for path in sources(layer):
        backward = [name for name in imported(path) if name.partition(".")[0] in later]
        assert not backward, f"{path} imports {backward}"


def test_no_cycle_between_modules():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): set(imported(path))
        for layer in LAYERS
        for path in sources(layer)
        if path.name != "__init__.py"
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


@pytest.mark.parametrize("package", LAYERS[:3])
def test_public_names_exist_are_sorted_and_documented(package):
    module = __import__(package)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert len(module.__all__) <= 13
    for name in module.__all__:
        thing = getattr(module, name)
        assert not callable(thing) or thing.__doc__, f"{package}.{name} has no docstring"


HEAVY = ("torch", "transformers", "scipy", "matplotlib", "pandas", "datasets")


@pytest.mark.parametrize("command", ["--help", "show {plan} --json", "show {plan}", "check {plan} {model}"])
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


@pytest.mark.parametrize("package", LAYERS[:3])
def test_importing_a_package_loads_no_torch(package):
    script = f"import sys, {package}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("folder", ["benchmarks", "benchmarks/study"])
def test_every_script_of_the_benchmarks_still_finds_what_it_imports(folder):
    names = sorted(path.stem for path in (ROOT / folder).glob("*.py"))
    script = f"import importlib; [importlib.import_module(name) for name in {names}]"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT / folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
