"""The Clauset fit against weightwatcher's and powerlaw's: agreement on fuzz spectra, and speed at n = 4096.

    python benchmarks/fits.py [--count 100000] [--processes 2] [--seed 0]

Agreement means the same x_min and alpha to 1e-9. Spectra come from nine families (heavy and light, with ties, half equal,
rank-deficient), n from 8 to 4096, small ones more often. Each is compared with both tools: with weightwatcher by position, with
powerlaw 1.5 by distinct value. Two cases are counted apart: weightwatcher returns an infinite alpha for a block of equal maxima,
and powerlaw has nothing to choose from below three distinct values.
"""

import argparse
import collections
import contextlib
import io
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import powerlaw
    from weightwatcher.WW_powerlaw import WWFit

from spectra.estimators.clauset import clauset

FAMILIES = {
    "pareto": lambda rng, n: (1 - rng.random(n)) ** -rng.uniform(0.2, 2),
    "lognormal": lambda rng, n: rng.lognormal(0, rng.uniform(0.1, 3), n),
    "exponential": lambda rng, n: rng.exponential(1, n) + 1e-4,
    "gamma": lambda rng, n: rng.gamma(rng.uniform(0.5, 5), 1, n) + 1e-4,
    "ties": lambda rng, n: np.round(rng.pareto(2, n) + 1, int(rng.integers(0, 3))),
    "integers": lambda rng, n: rng.zipf(2.2, n).astype(float),
    "half equal": lambda rng, n: np.where(rng.random(n) < 0.5, 1.0, rng.pareto(1.5, n) + 1),
    "student": lambda rng, n: _singular(rng.standard_t(3, (min(n, 256), min(n, 256) + 4))),
    "rank-deficient": lambda rng, n: _singular(
        rng.normal(size=(min(n, 256), min(n, 256) // 2 + 1)) @ rng.normal(size=(min(n, 256) // 2 + 1, min(n, 256)))
    ),
}


def _singular(W: np.ndarray) -> np.ndarray:
    return np.linalg.svd(W, compute_uv=False) ** 2


def spectrum(index: int, seed: int) -> tuple[str, np.ndarray]:
    """The index-th fuzz spectrum of a seed."""
    rng = np.random.default_rng([seed, index])
    family = list(FAMILIES)[index % len(FAMILIES)]
    n = int(8 * 512 ** (rng.random() ** 3))
    scale = 10 ** rng.uniform(-2, 4)
    values = scale * FAMILIES[family](rng, n)
    return family, values[values > 1e-5]


def verdict(index: int, seed: int) -> str:
    """`agrees`, a named deliberate difference, or a mismatch with its particulars."""
    family, x = spectrum(index, seed)
    if np.unique(x).size < 3:
        return "fewer than three distinct values"
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        ww, pl = WWFit(x), powerlaw.Fit(x, verbose=False)
    by_position, by_value = clauset(x), clauset(x, threshold=0.0, ties="powerlaw")
    if not np.isfinite(ww.alpha):
        return "weightwatcher's alpha is infinite"
    for name, ours, theirs in (("weightwatcher", by_position, ww), ("powerlaw", by_value, pl)):
        if ours.x_min != theirs.xmin or abs(ours.alpha / theirs.alpha - 1) > 1e-9:
            return f"MISMATCH with {name}: {family} {index} n {x.size}: {ours.x_min} {theirs.xmin} {ours.alpha} {theirs.alpha}"
    return "agrees"


def _verdict(task: tuple[int, int]) -> str:
    return verdict(*task)


def agreement(count: int, processes: int, seed: int) -> None:
    """Fuzz, and print how often each verdict fell."""
    with multiprocessing.GrowthGroup(processes) as group:
        counts = collections.Counter(group.imap_unordered(_verdict, ((index, seed) for index in range(count)), chunksize=200))
    for text, number in counts.most_common(20):
        print(f"{number:8,}  {text}")


def speed(seed: int, rounds: int = 7) -> None:
    """Time one fit at n = 4096 on the spectrum of a heavy-tailed matrix, and on pure Pareto, where pruning helps least."""
    rng = np.random.default_rng(seed)
    W = 0.02 * rng.standard_t(3, (4352, 4096))
    spectra = {"eigenvalues of a Student-t matrix": np.linalg.eigvalsh(W.T @ W), "pure Pareto": (1 - rng.random(4096)) ** -0.7}
    for name, x in spectra.items():
        ratios = {"powerlaw 1.5": [], "weightwatcher": []}
        for _ in range(rounds):
            ours = min(_timed(partial(clauset, x)) for _ in range(5))
            ratios["weightwatcher"].append(_timed(partial(WWFit, x)) / ours)
            ratios["powerlaw 1.5"].append(_timed(partial(powerlaw.Fit, x, verbose=False)) / ours)
        shown = ", ".join(f"{peer} {statistics.median(values):.0f}x" for peer, values in ratios.items())
        print(f"one fit at n = 4096, {name}: faster than {shown}")


def _timed(call: Callable[[], object]) -> float:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    speed(options.seed)
    agreement(options.count, options.processes, options.seed)
