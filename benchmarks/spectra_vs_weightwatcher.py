"""Whole checkpoints: `spectra.analyze`, exact and guarded, against weightwatcher.analyze and against the bare eigenvalue solver.

    python benchmarks/spectra_vs_weightwatcher.py [MODEL ...] [--rounds 5]

Without a model: the demo's MiniLM, and a synthetic checkpoint of eight 1024 x 1024 and four 2048 x 2048 Student-t matrices.
Every measurement is a process of its own, contenders alternate so that all see the same noise, ratios are medians over rounds.
Times include reading and exclude imports; memory is the peak above what the process held after its imports (Linux only).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from trainer.demo.classifier import link_model

OURS = """
import json, sys, time
import torch, spectra
from spectra.report import AnalysisSettings
from benchmarks.memory import peak_above_now
memory = peak_above_now()
start = time.perf_counter()
report = spectra.analyze(sys.argv[1], AnalysisSettings(precision="{precision}"))
seconds = time.perf_counter() - start
peak = memory()
print(json.dumps([seconds, peak, {{site.name: site.alpha for site in report.sites}}]))
"""
OVERHEAD = """
import json, statistics, sys, time
import torch, spectra
from concurrent.futures import ThreadPoolExecutor
from spectra.analysis import SMALL, WORKERS
from spectra.density import spectrum_of, threads

def solve():
    matrices = spectra.open_checkpoint(sys.argv[1]).contents[0]
    with threads(1), ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(spectrum_of, [matrix for matrix in matrices if min(matrix.shape) <= SMALL]))
    with threads(WORKERS):
        list(map(spectrum_of, [matrix for matrix in matrices if min(matrix.shape) > SMALL]))

def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

solve(), spectra.analyze(sys.argv[1])
ratios = [timed(lambda: spectra.analyze(sys.argv[1])) / timed(solve) for _ in range(7)]
print(json.dumps([statistics.median(ratios), 0, {}]))
"""
THEIRS = """
import contextlib, io, json, sys, time, warnings
warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()):
    import torch, transformers, weightwatcher
    watcher = weightwatcher.WeightWatcher()
    from benchmarks.memory import peak_above_now
    memory = peak_above_now()
    start = time.perf_counter()
    table = watcher.analyze(model=sys.argv[1])
    seconds = time.perf_counter() - start
peak = memory()
print(json.dumps([seconds, peak, dict(zip(table.longname, table.alpha))]))
"""
CONTENDERS = {
    "weightwatcher": THEIRS,
    "exact": OURS.format(precision="exact"),
    "guarded": OURS.format(precision="guarded"),
}


def synthetic(folder: Path) -> Path:
    """A checkpoint of Student-t matrices, the same on every machine."""
    import torch
    from safetensors.torch import save_file

    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        student = torch.distributions.StudentT(3.0)
        sides = [1024] * 8 + [2048] * 4
        tensors = {f"layers.{layer}.linear.weight": 0.02 * student.sample((side, side)) for layer, side in enumerate(sides)}
        save_file(tensors, folder / "model.safetensors")
    return folder


def measure(script: str, model: str) -> tuple[float, float, dict[str, float]]:
    """Run one contender; returns seconds, peak memory in MiB and alpha by name."""
    result = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, check=True)
    seconds, peak, alphas = json.loads(result.stdout.splitlines()[-1])
    return seconds, peak / 1024, alphas


def compare(model: str, rounds: int) -> dict[str, float]:
    """All contenders on one checkpoint."""
    runs: dict[str, list[tuple[float, float, dict[str, float]]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, script in CONTENDERS.items():
            runs[name].append(measure(script, model))
    found: dict[str, float] = {}
    theirs = runs["weightwatcher"]
    for name in ("exact", "guarded"):
        pairs = list(zip(theirs, runs[name], strict=True))
        found[f"{name}: weightwatcher's time / ours"] = statistics.median(their[0] / our[0] for their, our in pairs)
        found[f"{name}: our peak memory / weightwatcher's"] = statistics.median(our[1] / their[1] for their, our in pairs)
        alphas = pairs[0][1][2]
        found[f"{name}: largest relative difference of alpha"] = max(abs(alphas[key] / a - 1) for key, a in theirs[0][2].items())
    found["exact: overhead over the bare solver"] = measure(OVERHEAD, model)[0] - 1
    return found


def main() -> None:
    """Compare on every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    models = options.models or [str(link_model("demo")), str(synthetic(Path("demo/synthetic")))]
    for model in models:
        print(Path(model).name)
        for what, value in compare(model, options.rounds).items():
            print(f"  {what:55} {value:.3g}")


if __name__ == "__main__":
    main()
