"""How far each estimator's exponents can be trusted on a real model, and whether they agree. Behind docs/guide/choosing.md.

    python benchmarks/reliability.py [MODEL] [--subsamples 12]

Per estimator over the matrices inside the layers: the coefficient of variation under random submatrices of nine tenths of the
rows and columns (median and worst), the share of the variance between matrices that is not this noise, the same between layers'
means, and the largest relative move when the weights are rounded to bfloat16. Then the rank correlation between estimators. MODEL
is MiniLM by default.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spectra
from spectra.checkpoint.names import parse_name
from spectra.report import SiteSpectrum, SpectraReport
from spectra.settings import AnalysisSettings

ESTIMATORS = ("clauset", "hill", "peak", "farms", "farms-peak")


def rounded_copy(model: Path, folder: Path) -> Path:
    """The model's weights in bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    for file in model.glob("*.safetensors"):
        halves = {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in load_file(file).items()}
        save_file(halves, folder / file.name)
    (folder / "config.json").write_text((model / "config.json").read_text())
    return folder


def layered(report: SpectraReport) -> list[SiteSpectrum]:
    """The report's matrices inside numbered layers."""
    return [site for site in report.sites if parse_name(site.name)]


def layer_means(sites: list[SiteSpectrum], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a quantity per layer."""
    layers = np.array([parse_name(site.name).layer for site in sites])
    return np.array([values[layers == layer].mean() for layer in np.unique(layers)])


def real_share(values: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """1 - noise variance / total variance."""
    return float(1 - noise.mean() / values.var(ddof=1))


def main() -> None:
    """Analyse once per estimator, in double and in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--subsamples", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.model is None:
        from trainer.demo.classifier import link_model

        options.model = link_model(Path(tempfile.mkdtemp()))
    print("estimator    variation: median  worst   real between: matrices  layers   moved by bf16: median   most")
    alphas = {}
    with tempfile.TemporaryDirectory() as folder:
        half = rounded_copy(options.model, Path(folder))
        for name in ESTIMATORS:
            settings = AnalysisSettings(estimator=name, subsamples=options.subsamples, seed=options.seed)
            sites = layered(spectra.analyze(options.model, settings))
            alpha = alphas[name] = np.array([site.alpha for site in sites])
            variation = np.array([site.uncertainty.subsample_variation for site in sites])
            noise = (variation * alpha) ** 2
            per_layer = len(sites) / len(layer_means(sites, alpha))
            between = real_share(layer_means(sites, alpha), layer_means(sites, noise) / per_layer)
            again = np.array([site.alpha for site in layered(spectra.analyze(half, AnalysisSettings(estimator=name)))])
            moved = np.abs(again / alpha - 1)
            print(
                f"{name:12}          {np.median(variation):8.3f} {variation.max():6.3f} {real_share(alpha, noise):24.3f}"
                f" {between:7.3f} {np.median(moved):23.4%} {moved.max():6.2%}"
            )
    from scipy.stats import spearmanr

    print("\nSpearman over matrices" + "".join(f"{name:>12}" for name in ESTIMATORS))
    for one in ESTIMATORS:
        print(f"{one:22}" + "".join(f"{spearmanr(alphas[one], alphas[other]).statistic:12.2f}" for other in ESTIMATORS))


if __name__ == "__main__":
    main()
