"""How long planning takes for the largest models, how close to the optimum it ends, and how much memory it holds.

    python benchmarks/solver.py [--seed 0]

Two models by their published shapes: Llama-3.1-405B (126 layers of 7 matrices) and DeepSeek-V3's experts (61 layers of 256
experts of 3 matrices, as if every layer had them). Evidence is drawn at random: lognormal sensitivities and alphas, Dirichlet
routing. Each case is a process of its own; time is that of `planner.allocate` from reports in memory to the plan, memory the peak
of the whole process above its imports.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from planner.sensitivity.report import Estimate, ExpertUsage, SensitivityReport, SiteSensitivity, Task
from spectra.estimators.fits import FitStatus, TailFit
from spectra.report import ModelInfo, SiteSpectrum, SpectraReport, Uncertainty
from spectra.settings import AnalysisSettings

CASES = {
    "405B dense": [("combined", "0.1%"), ("combined", "1%"), ("alphalora", "0.1%"), ("sensitivity", "0.1%")],
    "DeepSeek-V3 experts": [("dr-lora", "0.1%"), ("combined", "0.1%"), ("sensitivity", "1%"), ("combined", "match rank 1")],
}


def dense_405b() -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and shape of every matrix."""
    for layer in range(126):
        for name, shape in (
            ("q_proj", (16384, 16384)),
            ("k_proj", (1024, 16384)),
            ("v_proj", (1024, 16384)),
            ("o_proj", (16384, 16384)),
        ):
            yield f"model.layers.{layer}.self_attn.{name}", shape
        for name, shape in (("gate_proj", (53248, 16384)), ("up_proj", (53248, 16384)), ("down_proj", (16384, 53248))):
            yield f"model.layers.{layer}.mlp.{name}", shape


def deepseek_v3() -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and shape of every expert's matrices."""
    for layer in range(61):
        for expert in range(256):
            for name, shape in (("gate_proj", (2048, 7168)), ("up_proj", (2048, 7168)), ("down_proj", (7168, 2048))):
                yield f"model.layers.{layer}.mlp.experts.{expert}.{name}", shape


def reports(case: str, seed: int) -> tuple[SpectraReport, SensitivityReport]:
    """Random evidence on a model's shapes."""
    rng = np.random.default_rng(seed)
    shapes = list(dense_405b() if case.startswith("405B") else deepseek_v3())
    model = ModelInfo(name=case, parameters=sum(a * b for _, (a, b) in shapes), fingerprint="benchmark")
    demand = rng.dirichlet(np.full(256, 0.5), 61).ravel() * 8
    spectra, sensitivities = [], []
    for position, (name, shape) in enumerate(shapes):
        alpha = float(rng.lognormal(1, 0.2))
        fit = TailFit(alpha=alpha, x_min=1.0, n_tail=500, ks=0.03, sigma=(alpha - 1) / 500**0.5, status=FitStatus.OK)
        spectra.append(
            SiteSpectrum(
                **fit.model_dump(), name=name, module=name, shape=shape, n_eigenvalues=min(shape), n_cut=0,
                fits={"clauset": fit, "peak": fit}, metrics=None, density=None, uncertainty=Uncertainty(),
            )
        )  # fmt: skip
        size = shape[0] * shape[1] * 1e-9
        values = [Estimate(mean=size * level, error=0.1 * size * level) for level in rng.lognormal(0, 1, 4).tolist()]
        routed = (ExpertUsage(token_share=float(demand[position // 3]), mean_weight=0.1),) if "experts" in name else ()
        squared, magnitude, taylor, fisher = ((value,) for value in values)
        sensitivities.append(
            SiteSensitivity(
                name=name,
                shape=shape,
                squared_gradient=squared,
                magnitude=magnitude,
                taylor=taylor,
                fisher=fisher,
                usage=routed,
            )
        )
    tasks = (Task(name="task", examples=128),)
    return (
        SpectraReport(model=model, settings=AnalysisSettings(), sites=tuple(spectra), skipped=()),
        SensitivityReport(model=model, tasks=tasks, sites=tuple(sensitivities)),
    )


def measure(case: str, strategy: str, budget: str, seed: int) -> dict[str, float]:
    """One plan, in this process."""
    from memory import peak_above_now  # beside this script

    import planner
    from planner import AllocationSettings

    planner.allocate("rank 1", AllocationSettings(strategy="uniform"), sensitivity=reports("405B dense", seed)[1])
    peak = peak_above_now()
    spectra, sensitivity = reports(case, seed)
    start = time.perf_counter()
    plan = planner.allocate(budget, AllocationSettings(strategy=strategy), spectra=spectra, sensitivity=sensitivity)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "gap": plan.optimum.gap if plan.optimum else math.nan,  # ranks by growth have no objective
        "mebibytes": peak() / 1024,
        "sites": len(plan.sites),
        "unspent": 1 - plan.budget.spent / plan.budget.limit,
    }


def main() -> None:
    """Every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "STRATEGY", "BUDGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.seed)))
        return
    for case, plans in CASES.items():
        for strategy, budget in plans:
            command = [sys.executable, __file__, "--seed", str(options.seed), "--one", case, strategy, budget]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"{case}, {found['sites']:,} sites, {strategy} {budget}: {found['seconds']:.2f} s, gap {found['gap']:.5%},"
                f" {found['mebibytes']:.0f} MiB, {found['unspent']:.4%} unspent"
            )


if __name__ == "__main__":
    main()
