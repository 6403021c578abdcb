"""The study's stages: which plans were compared on which tasks, in the order of docs/experiments."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import language
from tasks import CONFIRMATION, DEVELOPMENT, HELD_OUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Which plans are compared on which tasks."""

    tasks: tuple[str, ...]
    candidates: tuple[str, ...]
    """Strategies; `NAME-mixture` lets a plan have several experts per module, else it is plain LoRA; `NAME-sparse` may leave
    modules out."""
    seeds: int
    bed: str
    learning_rates: tuple[float, ...]
    budget: str = "rank 2"
    with_trial_run: int = 0
    """Steps of the probe's trial run."""
    baseline: str = "uniform"
    """The strategy of `uniform-lora`, with which all are compared; another where no rank is affordable everywhere."""


def classifiers(tasks: tuple[str, ...], *candidates: str, seeds: int, **others: object) -> Stage:
    """Plans of MiniLM."""
    usual = {"bed": "minilm", "learning_rates": (2e-3,)}
    return Stage(tasks=tasks, candidates=candidates, seeds=seeds, **usual | others)  # type: ignore[arg-type]


def texts(bed: str, tasks: tuple[str, ...], *candidates: str, seeds: int = 1, **others: object) -> Stage:
    """Plans of a language model."""
    usual = {"bed": bed, "learning_rates": (2e-2,)}
    return Stage(tasks=tasks, candidates=candidates, seeds=seeds, **usual | others)  # type: ignore[arg-type]


def with_trial_run(stage: Stage) -> Stage:
    """The same with a trial run of 30 steps, what `plan probe` does by itself."""
    return replace(stage, with_trial_run=30)


STRUCTURE = ("corruption", "follows", "indent")
RAISED = ("role", "operator", "typo", "corruption", "indent", "arguments")
STAGES: Mapping[str, Stage] = {
    # MiniLM, signals at initialisation
    "rates": classifiers(("corruption", "topic"), "cheap", seeds=1, learning_rates=(1e-3, 2e-3, 4e-3, 8e-3)),
    "shapes": classifiers(DEVELOPMENT, "cheap", "attention", "query-value", "mlp", "falling", "combined", seeds=2),
    "second": classifiers(STRUCTURE, "cheap", "cheap-half", "falling", "cheap-evidence", "cheap-inverse", seeds=3),
    "outputs": classifiers(("topic", "follows", "indent", "corruption"), "outputs", seeds=3),
    "mixtures": classifiers(STRUCTURE, "uniform-mixture", "combined", seeds=2, budget="rank 4"),
    "held-out": classifiers(
        HELD_OUT, "uniform-mixture", "random", "alphalora-mixture", "lora-smoe-mixture", "query-value", "combined", seeds=4
    ),
    "check": classifiers(("role", "typo", "arguments", "syntax"), "combined", "random", "lora-smoe-mixture", seeds=3),
    # the OLMoE in miniature
    "expert-rates": texts("language", ("stubs",), "use", budget="rank 1", learning_rates=(2e-3, 6e-3, 2e-2)),
    "experts": texts(
        "language",
        language.DEVELOPMENT,
        *("use", "use-half", "use-experts", "use-dense", "hot-experts", "attention"),
        seeds=2,
        budget="rank 1",
    ),
    "experts-held-out": texts(
        "language", language.HELD_OUT, "combined", "hot-experts", "dr-lora", "random", "lora-smoe", "uniform-mixture", seeds=2
    ),
    # with a trial run
    "dense": with_trial_run(texts("dense", language.DEVELOPMENT, "combined", "mola", seeds=2)),
    "dense-held-out": with_trial_run(
        texts("dense", language.HELD_OUT, "combined", "alphalora", "lora-smoe", "mola", "random", "uniform-mixture")
    ),
    "classifiers": with_trial_run(classifiers(DEVELOPMENT, "combined", "tempered", seeds=2)),
    "rehearsed": with_trial_run(classifiers(HELD_OUT, "combined", seeds=4)),
    "scarce": with_trial_run(
        classifiers(RAISED, "combined-sparse", "query-value", "random-some", seeds=1, budget="18432", baseline="attention")
    ),
    "upper": with_trial_run(texts("dense", language.DEVELOPMENT, "upper-half", "combined-upper-half", "combined-upper-third")),
    "dense-again": with_trial_run(texts("dense", language.HELD_OUT, "combined", "combined-upper-half")),
    "upper-classifiers": with_trial_run(classifiers(HELD_OUT, "combined-upper-half", seeds=2)),
    "signals": with_trial_run(
        texts(
            "dense",
            language.DEVELOPMENT,
            *("alpha", "inverse-alpha", "gradient", "product", "by-layer", "by-projection", "combined"),
        )
    ),
    "experts-rehearsed": with_trial_run(texts("language", ("tables", "cython", "licences"), "combined", "prior")),
    # on tasks and texts that no choice has seen
    "texts": with_trial_run(
        texts("dense", language.CONFIRMATION, "combined", "full", "alphalora", "lora-smoe", "random", "uniform-mixture")
    ),
    "texts-seeds": with_trial_run(texts("dense", language.CONFIRMATION, "combined", "full", seeds=2)),
    "texts-pooled": with_trial_run(texts("dense", language.CONFIRMATION, "layers", "types")),
    "mixtures-texts": texts("dense", ("translations", "scripts", "sources", "frames"), "uniform-mixture", budget="rank 8"),
    "mixtures-classifiers": classifiers(("role", "typo", "operator"), "uniform-mixture", seeds=2, budget="rank 8"),
    "longer": with_trial_run(texts("longer", ("translations", "sources", "frames"), "combined")),
    "experts-texts": with_trial_run(
        texts("language", language.CONFIRMATION, "combined", "lora-smoe", "dr-lora", "random", "uniform-mixture")
    ),
    "classifiers-again": with_trial_run(classifiers(CONFIRMATION, "combined", "random", "lora-smoe-mixture", seeds=2)),
    "classifiers-prior": classifiers(CONFIRMATION, "prior", seeds=2),
}
