"""The training run: a plan, a model and dataset files in, a folder of adapters and a RunReport out.

The loop is transformers.Trainer's (training/loop.py). Here a run is checked before anything is written, claimed, resumed and
reported.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, TrainingArguments

from planner import Plan, require_match
from planner.modules.checkpointing import recompute
from planner.plan import TrainingHints
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.core.distributed import is_main_process
from spectra.core.files import read_json, write_atomic
from spectra.core.log import LOG, warnings_only
from spectra.core.progress import Progress, silent
from spectra.report import ModelInfo
from trainer.adapters.config import AdapterConfig
from trainer.adapters.store import build, save_adapters
from trainer.base_model import head, load_tokenizer, require_length, resolved
from trainer.data.dataset import collator, mix, read_texts
from trainer.data.examples import Examples, Texts
from trainer.data.split import split
from trainer.data.tokenize import tokenise
from trainer.report import GrowthHistory, RateSearch, RunReport
from trainer.run_folder import BEST, CHECKPOINTS, HISTORY, MANIFEST, REPORT, SIZES
from trainer.settings import MixtureSettings, TrainSettings
from trainer.training.growth import Growth
from trainer.training.loop import (
    AdapterTrainer,
    DivergedError,
    MonitorCallback,
    arguments,
    collapsed,
    curve,
    evaluations,
)
from trainer.training.memory import FreedMemoryCallback, peak_memory
from trainer.training.rate import search as find_rate
from trainer.training.sharding import shard

HELD_OUT = 200  # examples that tell learning rates apart
ROUTING = ("router", "balance_loss", "z_loss")  # settings that do nothing in a plan without routers
Files = str | Path | Sequence[str | Path]


def train(
    plan: Plan,
    model: str | Path,
    data: Files,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    weights: Sequence[float] | None = None,
    evaluation: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> RunReport:
    """Build the planned mixture of LoRA experts on a model and fine-tune it.

    Args:
        plan: what to build.
        model: the base model, a folder or a hub id.
        data: a dataset file, or several as a mixture of tasks; their columns decide the task.
        output: the run's folder.
        settings: how to train.
        weights: how often each file is drawn from; by default all examples of all files, once an epoch.
        evaluation: a held-out file that is scored during the run; the best adapters are kept beside the last.
        resume: go on from the newest checkpoint in `output`, if there is one.
        progress: told after each step, with the last loss that was logged.

    Raises:
        InputError: a plan or file that does not fit, a folder that already holds a run, or a loss that is not finite.
    """
    files = [Path(file) for file in ([data] if isinstance(data, str | Path) else data)]
    # Whatever can be refused is refused before the folder is claimed, so that a mistake leaves nothing behind.
    output, checkpoint, settings = Path(output), open_checkpoint(model), _with_hints(settings or TrainSettings(), plan)
    found = None
    if settings.learning_rate == "auto":
        settings, found = _with_rate(plan, checkpoint, files, weights, settings, output if resume else None, progress)
    run = _prepare(plan, checkpoint, files, weights, evaluation, settings)
    return _fit(run, output, resume, progress, search=found)[0]


def train_loaded(
    plan: Plan, checkpoint: Checkpoint, base: Any, data: Path, output: Path, settings: TrainSettings, progress: Progress = silent
) -> Any:
    """`train` on a base model that is loaded already, in the settings' precision: it becomes the trained one, which is returned.

    Raises:
        InputError: see `train`.
    """
    return _fit(_prepare(plan, checkpoint, [data], None, None, settings), output, False, progress, base)[1]


def _with_hints(settings: TrainSettings, plan: Plan) -> TrainSettings:
    """The settings, with what the plan suggests where nothing was chosen."""
    hints = plan.training.model_dump(exclude={"found"}, exclude_none=True) if plan.training else {}
    used = {name: value for name, value in hints.items() if name not in settings.model_fields_set}
    if not used:
        return settings
    assert plan.training is not None
    if is_main_process():
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in used.items())
        LOG.info(f"{shown}: as the plan says ({plan.training.found})")
    chosen = {name: getattr(settings, name) for name in settings.model_fields_set}
    return TrainSettings.checked(chosen | used, "the plan's training hints")


def _with_rate(
    plan: Plan,
    checkpoint: Checkpoint,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    settings: TrainSettings,
    begun: Path | None,
    progress: Progress,
) -> tuple[TrainSettings, RateSearch | None]:
    """The settings with the rate of the run that was begun, or else with one that is searched for now."""
    if begun is not None and (begun / MANIFEST).is_file():
        return settings.model_copy(update={"learning_rate": read_json(begun / MANIFEST)["learning_rate"]}), None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("`learning_rate` auto is searched for by one process; find it in one, then give it to several")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings_only():
        parts = [split(file, Path(folder), number) for number, file in enumerate(files)]
        held = Path(folder) / "held-out.jsonl"
        # All files' held-out tenths together have one format only if the files have; the first stands for a mixture.
        held.write_text("".join(parts[0][1].read_text().splitlines(keepends=True)[:HELD_OUT]))

        def loss_of(rate: float, steps: int) -> float:
            # What depends on the length of the run, or writes elsewhere, is left out.
            changed = {
                "learning_rate": rate,
                "max_steps": steps,
                "evaluations": 1,
                "grow": False,
                "patience": 0,
                "report_to": "none",
            }
            trial = settings.model_copy(update=changed)
            run = _prepare(plan, checkpoint, [train for train, _ in parts], weights, held, trial)
            progress(0, None, f"trying learning rate {rate:g} for {steps} steps")
            try:
                return _fit(run, Path(folder) / f"{rate}-{steps}", False, silent)[0].evaluations[-1].loss
            except DivergedError:
                return math.inf

        whole = _prepare(plan, checkpoint, files, weights, None, settings)
        steps = arguments(
            Path(folder), settings.model_copy(update={"learning_rate": 1.0}), len(whole.examples.rows), False
        ).max_steps
        found = find_rate(loss_of, steps)
    found = found.model_copy(update={"seconds": time.monotonic() - started})
    return settings.model_copy(update={"learning_rate": found.learning_rate}), found


def _fit(
    run: "_Run", output: Path, resume: bool, progress: Progress, base: Any = None, search: RateSearch | None = None
) -> tuple[RunReport, Any]:
    """Claim the folder, build, train, report and save."""
    plan, settings = run.plan, run.settings
    made = arguments(output, settings, len(run.examples.rows), run.evaluation is not None)
    built = build(run.checkpoint, plan, run.config, run.config.precision, base)
    if settings.gradient_checkpointing:
        recompute(built)
    # Growth replaces A and B, so it comes before sharding and the optimiser, which know parameters by identity.
    growth = Growth(built, plan, made.max_steps, settings.saliency, settings.seed) if settings.grow else None
    if settings.shard:
        shard(built, made.device, made.world_size)
    # The main process writes the manifest or refuses before any other looks; one for all machines, which share the folder.
    with made.main_process_first(local=False):
        last = _claim(output, run, resume, made.process_index == 0)
    if last and (output / REPORT).is_file():  # the run is finished
        return RunReport.load(output / REPORT), built
    keep_best = partial(save_adapters, output / BEST, plan=plan, config=run.config)
    trainer = _trainer(run, built, made, growth, MonitorCallback(built, progress, settings.patience, keep_best))
    begun = time.monotonic()
    with _tidy(output):
        if last and step_of(last) >= made.max_steps:  # transformers would train one step more
            trainer.restore(last)
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    report = _report(run, trainer, math.nan if last else time.monotonic() - begun, search)
    if growth:
        plan = growth.finish(plan, settings.alpha)
        if trainer.is_world_process_zero():
            GrowthHistory(events=tuple(growth.history)).save(output / HISTORY)
    if search:
        # The others too, because a rate holds for what it was found with.
        beside = {name: getattr(settings, name) for name in ("lr_ratio", "alpha", "init")}
        found = f"successive halving, {search.steps} steps in all"
        hints = TrainingHints(learning_rate=search.learning_rate, found=found, **beside)
        plan = plan.model_copy(update={"training": hints})
    save_adapters(output, trainer.model, plan, run.config)
    if trainer.is_world_process_zero():
        # Last of all: a folder with a report counts as finished.
        report.save(output / REPORT)
    return report, trainer.model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Everything a run needs, checked before anything is written."""

    plan: Plan
    checkpoint: Checkpoint
    settings: TrainSettings
    config: AdapterConfig
    data_sha256: str
    tokenizer: Any
    examples: Examples
    evaluation: Examples | None


def _trainer(
    run: _Run, model: nn.Module, made: TrainingArguments, growth: Growth | None, monitor: MonitorCallback
) -> AdapterTrainer:
    trainer = AdapterTrainer(
        model=model,
        args=made,
        train_dataset=run.examples.rows,
        eval_dataset=run.evaluation.rows if run.evaluation else None,
        data_collator=collator(run.config.task, run.tokenizer),
        # Growth saves first: the monitor notes what a checkpoint holds.
        callbacks=[*([growth] if growth else []), monitor, FreedMemoryCallback()],
        growth=growth,
        lr_ratio=run.settings.lr_ratio,
    )
    # Without its progress bar the Trainer prints every log line instead.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _prepare(
    plan: Plan,
    checkpoint: Checkpoint,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    evaluation: str | Path | None,
    settings: TrainSettings,
) -> _Run:
    require_match(plan, checkpoint)
    if settings.grow and evaluation:
        raise InputError(
            "`grow` keeps no best adapters on the way, because their ranks are not final; leave the evaluation file out"
        )
    if settings.patience and not evaluation:
        raise InputError(f"`patience` {settings.patience} needs an evaluation file to watch; give `evaluation`")
    parts = [read_texts(file) for file in files]
    labels, counts = _labels(parts, plan)
    tokenizer = load_tokenizer(checkpoint.location)
    require_length(checkpoint, settings.max_length)
    config = AdapterConfig(
        base_model_name_or_path=checkpoint.source,
        task=parts[0].task,
        labels=labels,
        label_counts=tuple(counts[label] for label in labels),
        max_length=settings.max_length,
        loss_on=settings.loss_on,
        seed=settings.seed,
        pad_token_id=tokenizer.pad_token_id,
        base_weights=checkpoint.weights,
        precision=resolved(settings.precision),
        mixture=settings.mixture(),
    )
    options: dict[str, Any] = {"labels": labels, "loss_on": settings.loss_on}
    tokenised = [tokenise(part, tokenizer, settings.max_length, packing=settings.packing, **options) for part in parts]
    held_out = tokenise(read_texts(evaluation), tokenizer, settings.max_length, **options) if evaluation else None
    return _Run(
        plan=plan,
        checkpoint=checkpoint,
        settings=settings,
        config=config,
        data_sha256=_digest([*files, *([Path(evaluation)] if evaluation else [])], weights),
        tokenizer=tokenizer,
        examples=mix(tokenised, weights, settings.seed),
        evaluation=held_out,
    )


def _labels(parts: Sequence[Texts], plan: Plan) -> tuple[tuple[str, ...], Counter[str]]:
    """The labels of all files together, and how often each occurs; nothing for a language model.

    Raises:
        InputError: files of different kinds, a single label, or nothing to train.
    """
    if len({part.task for part in parts}) > 1:
        tasks = ", ".join(f"{part.path} is {part.task}" for part in parts)
        raise InputError(f"files of one run must be of one task: {tasks}")
    if parts[0].task == "causal":
        if not plan.parameters:
            raise InputError("the plan adapts nothing and a language model has no new head: there is nothing to train")
        return (), Counter()
    counts = Counter(label for part in parts for label in part.rows["label"])
    if len(counts) == 1:
        raise InputError(f"{parts[0].path}: only one label, {next(iter(counts))!r}; there is nothing to tell apart")
    return tuple(sorted(counts)), counts


def _digest(files: Sequence[Path], weights: Sequence[float] | None) -> str:
    whole = hashlib.sha256(repr(None if weights is None else list(weights)).encode())
    for file in files:
        # A digest of digests, so that text moved from the end of one file to the start of the next is noticed.
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _claim(output: Path, run: _Run, resume: bool, first: bool) -> Path | None:
    """Take a folder for this run, or find the checkpoint to go on from; of several processes only the first one writes.

    Raises:
        InputError: the folder holds a run and `resume` is not asked for, or it holds a run of another plan, data or settings.
    """
    manifest = output / MANIFEST
    mine = run.settings.model_dump(mode="json") | run.config.model_dump(mode="json") | {"plan": run.plan.model_dump(mode="json")}
    text = json.dumps(mine | {"data_sha256": run.data_sha256}, sort_keys=True, indent=1) + "\n"
    if first:
        # A run that was killed before its first checkpoint leaves a manifest only; `resume` then starts it over.
        if (manifest.exists() or (output / CHECKPOINTS).exists()) and not resume:
            raise InputError(f"{output}: already holds a run; add `resume` to go on with it, or choose another folder")
        if manifest.exists() and json.dumps(read_json(manifest), sort_keys=True, indent=1) + "\n" != text:
            raise InputError(f"{output}: holds a run of another plan, model, data or settings; choose another folder")
        write_atomic(manifest, text)
    # Every process looks for itself, once the main one has passed; all see the same folder.
    whole = [path for path in output.glob(f"{CHECKPOINTS}/checkpoint-*") if _is_whole(path)]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, from its folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and nothing in it has been lost since."""
    try:
        sizes = read_json(checkpoint / SIZES)
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (InputError, OSError):
        return False


@contextmanager
def _tidy(output: Path) -> Iterator[None]:
    """Say in one line that the disk is full, and leave nothing behind of a run that failed before its first checkpoint."""
    try:
        yield
    # Ctrl-C included: a run that was interrupted before its first checkpoint can be started again with the same command.
    except BaseException as error:
        if is_main_process() and not any(_is_whole(path) for path in output.glob(f"{CHECKPOINTS}/checkpoint-*")):
            shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
            (output / MANIFEST).unlink(missing_ok=True)
            if not any(output.iterdir()):
                output.rmdir()
        if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch's way to say that a write failed
            raise InputError(f"{output / CHECKPOINTS}: a checkpoint cannot be written; is the disk full?") from None
        raise


def _without_effect(run: _Run) -> tuple[str, ...]:
    """A note if settings of routers were given where the plan has none."""
    # Whether an option was given is not known here; one that has its usual value is as good as not given.
    usual = MixtureSettings()
    asked = [f"`{name}`" for name in ROUTING if getattr(run.settings, name) != getattr(usual, name)]
    if not asked or any(len(site.ranks) > 1 for site in run.plan.sites):
        return ()
    return (f"the plan has no routers: {' and '.join(asked)} had no effect",)


def _report(run: _Run, trainer: AdapterTrainer, seconds: float, search: RateSearch | None) -> RunReport:
    state = trainer.state
    scored = evaluations(state.log_history)
    # What has been recorded since the last log, or if the log took it all, what it took.
    health = (trainer.router_state.health() if trainer.router_state else ()) or trainer.health
    # Before padding. A run may stop in the middle of an epoch, so the mean length stands for the tokens that were seen.
    lengths = [len(tokens) for tokens in run.examples.rows["input_ids"]]
    tokens = sum(lengths) / len(lengths) * run.settings.batch_size * state.global_step
    return RunReport(
        model=ModelInfo.of(run.checkpoint),
        strategy=run.plan.strategy,
        settings=run.settings,
        rate_search=search,
        examples=len(run.examples.rows),
        truncated=run.examples.truncated,
        dropped=run.examples.dropped,
        steps=state.global_step,
        adapter_parameters=run.plan.parameters,
        head_parameters=sum(parameter.numel() for parameter in head(trainer.model).values()),
        curve=curve(state.log_history),
        evaluations=scored,
        best_step=min(scored, key=lambda point: point.loss).step if scored else None,
        routers=health,
        notes=(*_without_effect(run), *collapsed(health)),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        peak_memory=peak_memory(),
    )
