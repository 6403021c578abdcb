"""How many points does the integral behind a trial run's loss reductions need, and what does knowing their sum help?

    python benchmarks/study/quadrature.py MODEL DATA [DATA ...]

A trial run with its defaults on each file, then the loss reductions from 2 to 5 points of Gauss and Legendre's rule beside
those from 24: root mean square of the error over the mean of the values, and rank correlation, as integrated and with the sum
set right.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from spectra import open_checkpoint
from trainer import TrainSettings
from trainer.attribution import attribution
from trainer.attribution.trial_run import STEPS, short_run
from trainer.quiet import quiet_libraries


def ranks(values: Tensor) -> Tensor:
    """Positions in ascending order."""
    return values.argsort().argsort().double()


def main() -> None:
    """Print a table for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path, nargs="+")
    options = parser.parse_args()
    quiet_libraries()
    completed = attribution._completed
    for data in options.data:
        settings = TrainSettings(max_steps=STEPS["causal"], batch_size=16)
        model, sample = short_run(open_checkpoint(options.model), data, settings, "cpu")
        scales = attribution.adapter_scales(model)
        integrated = {}
        attribution._completed = lambda shares, sums: torch.cat([shares, sums[:, None]], dim=1)
        for points in (2, 3, 4, 5, 24):
            attribution.POINTS = points
            integrated[points] = attribution.attribute(model, scales, sample)
        known = integrated[24][:, -1]
        exact = completed(integrated[24][:, :-1], known).mean(0)
        print(f"{data.stem}: the adapters take {known.mean():.3f} nats off")
        for points, found in integrated.items():
            plain = found[:, :-1]
            for name, values in (("integrated", plain.mean(0)), ("sum known", completed(plain, known).mean(0))):
                error = (values - exact).square().mean().sqrt() / exact.mean()
                alike = torch.corrcoef(torch.stack([ranks(values), ranks(exact)]))[0, 1]
                print(
                    f"  {points:2} points, {name}: sum {values.sum():.3f}, error {error:.3f}, rank correlation {alike:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
