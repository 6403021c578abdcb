"""The tables of docs/experiments/where-capacity-goes.md and how-small.md, from the runs kept in results.npz: `tables.py`.

Every run's loss on every test example is there, in half precision. Differences are paired by seed and example with the same code
as in `plan compare`; tasks count alike, and their runs are independent of each other.
"""

import math
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from trainer.study.binding import NEGLIGIBLE
from trainer.study.statistics import Paired, holm, paired, seeds_for

HERE = Path(__file__).parent
RANK_1 = 305_280
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


def over_tasks(found: Sequence[Paired]) -> Paired:
    """The mean over tasks with the tasks as draws, as a claim about another task needs."""
    means = np.array([one.mean for one in found])
    return Paired(mean=float(means.mean()), error=float(means.std(ddof=1) / len(means) ** 0.5), freedom=len(means) - 1)


def shown(one: Paired | None) -> str:
    """Mean and 95% half-width."""
    if one is None:
        return ""
    low, high = one.interval
    return f"{one.mean:+.3f} +- {(high - low) / 2:.3f}"


def compare(runs: Runs, arms: Sequence[str], other: str, tasks: Sequence[str]) -> None:
    """Every arm minus another: per task, and pooled with Holm's p."""
    print(f"\n| minus {other} | " + " | ".join(tasks), end="")
    print(" | these tasks | p (Holm) | tasks as draws |\n|" + "---|" * (len(tasks) + 4))
    rows = {arm: [difference(runs, task, arm, other) for task in tasks] for arm in arms}
    whole = {arm: pooled([one for one in row if one is not None]) for arm, row in rows.items()}
    values = holm([one.p for one in whole.values()])
    for (arm, row), p in zip(rows.items(), values, strict=True):
        wider = over_tasks([one for one in row if one is not None])
        print(f"| {arm} | " + " | ".join(map(shown, row)) + f" | {shown(whole[arm])} | {p:.2g} | {shown(wider)} |")


SIZES = {"even 0.25": RANK_1 // 4, "uniform 1": RANK_1, "uniform 8": 8 * RANK_1}


def enough(runs: Runs, task: str, seeds: Sequence[int]) -> str:
    """What the binding check says of three sizes: the smallest that loses no more than is negligible, and how many are beaten."""
    pairs = list(combinations(SIZES, 2))
    found = [paired([table(runs, task, one, seeds) - table(runs, task, other, seeds)]) for one, other in pairs]
    values = list(zip(pairs, found, holm([one.p for one in found]), strict=True))
    beaten = {small for (small, _), one, p in values if p < 0.05 and one.mean > 0}
    unsure = {small for (small, _), one, _ in values if one.interval[1] > NEGLIGIBLE}
    least = min(size for arm, size in SIZES.items() if arm not in unsure)
    return f"{least:,} | {', '.join(f'{SIZES[arm]:,}' for arm in SIZES if arm in beaten) or 'none'}"


def binding(runs: Runs) -> None:
    """The check on the first seeds of a task beside the check on its other seeds."""
    print("\n| task | seeds | loses nothing | beaten | other seeds | loses nothing | beaten |\n|" + "---|" * 7)
    for task in dict.fromkeys(task for task, _, _ in runs):
        seeds = seeds_of(runs, task, *SIZES)
        first, rest = (seeds[:3], seeds[3:]) if len(seeds) >= 6 else (seeds[:2], seeds[2:])
        print(f"| {task} | {len(first)} | {enough(runs, task, first)} | {len(rest)} | {enough(runs, task, rest)} |")
    for task in dict.fromkeys(task for task, _, _ in runs):
        print(f"| {task} | all | {enough(runs, task, seeds_of(runs, task, *SIZES))} |")


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


def asked_for(runs: Runs, size: float, trials: int = 200) -> None:
    """Power with the seeds that a study asks for: drawn from each task's own variances, after a pilot of three seeds.

    The variances of seeds, examples and their rest are those between rank 1 and rank 8. Every simulated study first has its
    pilot, is told by it how many seeds find the planted difference, and then has so many. It makes one comparison.
    """
    random = np.random.default_rng(0)
    print(f"\n| task | test examples | median seeds asked for | not possible | planted {size} found |\n|---|---|---|---|---|")
    for task in dict.fromkeys(task for task, _, _ in runs):
        real = difference(runs, task, "uniform 1", "uniform 8")
        assert real
        assert real.spread
        examples, spread = runs[task, "uniform 8", 0].shape[0], real.spread
        of_rest = spread.by_rest * spread.seeds * examples
        of_seed = max(0.0, spread.by_seed - spread.by_rest) * spread.seeds
        of_example = max(0.0, spread.by_example - spread.by_rest) * examples

        def draw(seeds: int, mean: float) -> Paired:
            parts = (of_seed, (seeds, 1)), (of_example, (1, examples)), (of_rest, (seeds, examples))  # noqa: B023
            return paired([mean + sum(random.normal(0, variance**0.5, shape) for variance, shape in parts)])

        asked, found = [], 0
        for _ in range(trials):
            pilot = draw(3, size).spread
            assert pilot
            seeds = seeds_for(size, pilot.assured(), 1)
            if seeds is not None:
                asked.append(seeds)
                found += draw(seeds, size).p < 0.05
        share = f"{found / len(asked):.0%}" if asked else ""
        print(
            f"| {task} | {examples} | {np.median(asked) if asked else math.nan:.0f} | {1 - len(asked) / trials:.0%} | {share} |"
        )


def draw(runs: Runs, file: Path) -> None:
    """The figure of docs/experiments/how-small.md: what smaller plans cost, pooled over the five tasks that all plans have."""
    from matplotlib.figure import Figure

    from spectra.views.figures import GREY, PALETTE, style

    tasks = [task for task in dict.fromkeys(task for task, _, _ in runs) if (task, "upper 0.25", 0) in runs]
    lines = {
        "combined": ("combined 0.25", "combined 0.0625"),
        "at random": ("random 0.25", "random 0.0625"),
        "whole types": ("even 0.25",),
        "squared gradients": ("sensitivity 0.25", "sensitivity 0.0625"),
        "effective rank": ("effective-rank 0.25", "effective-rank 0.0625"),
        "combined, upside down": ("inverted 0.25",),
        "upper layers": ("upper 0.25",),
    }
    colors = [PALETTE[0], GREY, *PALETTE[1:]]
    with style():
        chart = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = chart.subplots()
        for number, (name, arms) in enumerate(lines.items()):
            shown = ("uniform 1", *arms)
            found = [pooled([difference(runs, task, arm, "uniform 8") for task in tasks]) for arm in shown]  # type: ignore[misc]
            sizes = [RANK_1 * float(arm.split()[-1]) for arm in shown]
            halves = [one.interval[1] - one.mean for one in found]
            # Beside each other and not on top of each other.
            places = [size * 1.035 ** (number - 3) for size in sizes]
            means, look = [one.mean for one in found], {"ms": 4, "capsize": 2, "lw": 1.2}
            axes.errorbar(places[1:], means[1:], yerr=halves[1:], fmt="o", color=colors[number], label=name, **look)
            axes.plot([sizes[0], *places[1:]], means, lw=1.0, color=colors[number], zorder=1.5)
        axes.errorbar(sizes[:1], means[:1], yerr=halves[:1], fmt="s", color="black", label="rank 1 everywhere", **look)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xscale("log", base=4)
        axes.set_xticks([RANK_1 / 16, RANK_1 / 4, RANK_1], [f"{round(RANK_1 / part):,}" for part in (16, 4, 1)])
        axes.minorticks_off()
        axes.set(xlabel="trainable parameters", ylabel="nats per token above rank 8 everywhere")
        axes.set_title(f"SmolLM2-135M, {len(tasks)} tasks, 95% intervals")
        chart.legend(loc="outside right center", fontsize=8, frameon=False)
        chart.savefig(file, dpi=150)


def main() -> None:
    """Print all tables."""
    runs = load()
    draw(runs, HERE.parents[1] / "docs" / "figures" / "how-small.png")
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
    binding(runs)
    same_against_same(runs)
    for size in (0.02, 0.05):
        planted(runs, size)
        asked_for(runs, size)


if __name__ == "__main__":
    keep(sys.argv[1:]) if sys.argv[1:] else main()
