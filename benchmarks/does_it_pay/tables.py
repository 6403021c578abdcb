"""The tables of docs/experiments/where-capacity-goes.md and how-small.md, from the runs kept in results.npz: `tables.py`.

Every run's loss on every test example is there, in half precision. Differences are paired by seed and example with the same code
as in `plan compare`; tasks count alike, and their runs are independent of each other.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.study.statistics import Paired, holm, paired

HERE = Path(__file__).parent
Runs = dict[tuple[str, str, int], np.ndarray]
"""Task, arm and seed -> losses of all test examples."""


def keep(folders: Sequence[str]) -> None:
    """Put what `gpu.py` wrote into results.npz and results.csv."""
    import torch

    found: dict = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("results-*.pt")):
            found |= torch.load(path, weights_only=False)
    lines = ["task,arm,kind,seed,learning_rate,loss"]
    for (task, arm, kind, seed, rate), one in sorted(found.items()):
        lines.append(f"{task},{arm},{kind},{seed},{rate:g},{float(one['losses'].mean()):.5f}")
    (HERE / "results.csv").write_text("\n".join(lines) + "\n")
    kept = {f"{k[0]}|{k[1]}|{k[3]}": one["losses"].astype(np.float16) for k, one in found.items() if k[2] == "seeds"}
    np.savez_compressed(HERE / "results.npz", **kept)


def load() -> Runs:
    """All runs that count."""
    with np.load(HERE / "results.npz") as file:
        return {
            (task, arm, int(seed)): file[name].astype(np.float64) for name in file.files for task, arm, seed in [name.split("|")]
        }


def table(runs: Runs, task: str, arm: str, seeds: Sequence[int]) -> np.ndarray:
    """(seeds, examples)."""
    return np.array([runs[task, arm, seed] for seed in seeds])


def seeds_of(runs: Runs, task: str, *arms: str) -> list[int]:
    """The seeds that all arms have."""
    return sorted(set.intersection(*({seed for t, a, seed in runs if (t, a) == (task, arm)} for arm in arms)))


def difference(runs: Runs, task: str, arm: str, other: str) -> Paired | None:
    """One arm minus another on a task."""
    seeds = seeds_of(runs, task, arm, other)
    return paired([table(runs, task, arm, seeds) - table(runs, task, other, seeds)]) if len(seeds) > 1 else None


def pooled(found: Sequence[Paired]) -> Paired:
    """The mean over tasks, whose runs share nothing."""
    count = len(found)
    variances = [(one.error / count) ** 2 for one in found]
    below = sum(variance**2 / one.freedom for variance, one in zip(variances, found, strict=True))
    mean = sum(one.mean for one in found) / count
    return Paired(mean=mean, error=math.sqrt(sum(variances)), freedom=sum(variances) ** 2 / below)


def shown(one: Paired | None) -> str:
    """Mean and 95% half-width."""
    if one is None:
        return ""
    low, high = one.interval
    return f"{one.mean:+.3f} +- {(high - low) / 2:.3f}"


def compare(runs: Runs, arms: Sequence[str], other: str, tasks: Sequence[str]) -> None:
    """Every arm minus another: per task, and pooled with Holm's p."""
    print(f"\n| minus {other} | " + " | ".join(tasks) + " | pooled | p (Holm) |\n|" + "---|" * (len(tasks) + 3))
    rows = {arm: [difference(runs, task, arm, other) for task in tasks] for arm in arms}
    whole = {arm: pooled([one for one in row if one is not None]) for arm, row in rows.items()}
    values = holm([one.p for one in whole.values()])
    for (arm, row), p in zip(rows.items(), values, strict=True):
        print(f"| {arm} | " + " | ".join(map(shown, row)) + f" | {shown(whole[arm])} | {p:.2g} |")


def same_against_same(runs: Runs) -> None:
    """A/A: a plan against itself with other seeds, in as many studies as there are disjoint seeds for."""
    for size in (4, 2):
        studies = findings = 0
        for task, arm in sorted({(task, arm) for task, arm, _ in runs}):
            seeds = seeds_of(runs, task, arm)
            for start in range(0, len(seeds) - 2 * size + 1, 2 * size):
                one, other = seeds[start : start + size], seeds[start + size : start + 2 * size]
                found = paired([table(runs, task, arm, one) - table(runs, task, arm, other)])
                studies, findings = studies + 1, findings + (found.p < 0.05)
        print(f"A/A, {size} seeds each: {findings} of {studies} studies find a difference at 95%")


def planted(runs: Runs, size: float) -> None:
    """Power: the same studies with a difference planted in one side."""
    studies = findings = 0
    for task, arm in sorted({(task, arm) for task, arm, _ in runs}):
        seeds = seeds_of(runs, task, arm)
        if len(seeds) >= 8:
            found = paired([table(runs, task, arm, seeds[:4]) - table(runs, task, arm, seeds[4:8]) - size])
            studies, findings = studies + 1, findings + (found.p < 0.05)
    print(f"planted {size} nats, 4 seeds each: found in {findings} of {studies} studies")


def main() -> None:
    """Print all tables."""
    runs = load()
    tasks = list(dict.fromkeys(task for task, _, _ in runs))
    arms = list(dict.fromkeys(arm for _, arm, _ in runs))
    print("| loss | " + " | ".join(tasks) + " |\n|" + "---|" * (len(tasks) + 1))
    for arm in arms:
        cells = [(seeds_of(runs, task, arm), task) for task in tasks]
        values = [
            f"{np.mean([runs[task, arm, s].mean() for s in seeds]):.3f} ({len(seeds)})" if seeds else "" for seeds, task in cells
        ]
        print(f"| {arm} | " + " | ".join(values) + " |")
    quarter = [arm for arm in arms if arm.endswith(" 0.25")]
    sixteenth = [arm for arm in arms if arm.endswith("0.0625")]
    compare(runs, [arm for arm in quarter if arm != "random 0.25"], "random 0.25", tasks)
    compare(runs, [arm for arm in quarter if arm != "even 0.25"], "even 0.25", tasks)
    compare(runs, [arm for arm in sixteenth if not arm.startswith("random")], "random 0.0625", tasks)
    compare(runs, [arm for arm in arms if arm != "uniform 8"], "uniform 8", tasks)
    same_against_same(runs)
    for size in (0.02, 0.05):
        planted(runs, size)


if __name__ == "__main__":
    keep(sys.argv[1:]) if sys.argv[1:] else main()
