"""A whole checkpoint: `spectra.analyze` and weightwatcher.analyze, each in a process of its own, side by side.

    python benchmarks/spectra_vs_weightwatcher.py [MODEL] [--rounds 5]

Prints the ratio of times, reading included and imports not, and the largest relative difference of alpha.
"""

import argparse
import json
import statistics
import subprocess
import sys

from trainer.demo import link_model

OURS = """
import json, sys, time, torch, spectra
start = time.perf_counter()
report = spectra.analyze(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps([seconds, {site.name: site.alpha for site in report.sites}]))
"""
THEIRS = """
import contextlib, io, json, sys, time, warnings
warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()):
    import weightwatcher
    watcher = weightwatcher.WeightWatcher()
    start = time.perf_counter()
    table = watcher.analyze(model=sys.argv[1])
    seconds = time.perf_counter() - start
print(json.dumps([seconds, dict(zip(table.longname, table.alpha))]))
"""


def measure(script: str, model: str) -> tuple[float, dict[str, float]]:
    """Run one contender; returns seconds and alpha by name."""
    result = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, check=True)
    seconds, alphas = json.loads(result.stdout.splitlines()[-1])
    return seconds, alphas


def main() -> None:
    """Alternate the contenders, so that both see the same noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = options.model or str(link_model("demo"))
    ratios = []
    for _ in range(options.rounds):
        ours, our_alphas = measure(OURS, model)
        theirs, their_alphas = measure(THEIRS, model)
        ratios.append(theirs / ours)
        worst = max(abs(our_alphas[name] / alpha - 1) for name, alpha in their_alphas.items())
    print(f"{len(our_alphas)} matrices here, {len(their_alphas)} there; largest relative difference of alpha {worst:.1e}")
    print(f"time of weightwatcher / ours: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
