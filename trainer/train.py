"""The training run: a plan, a model and a dataset file in, a folder of adapters and a RunReport out.

The loop is transformers.Trainer's. Ours are the model, the data, what is saved (adapters only), and resuming from it.
"""

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from planner import Plan, require_match
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.analysis import model_info
from spectra.values import read_json, write_atomic
from trainer.adapters import WEIGHTS, AdapterConfig, build, load_state, save_adapters, trained_state
from trainer.data import Examples, Texts, collator, read_texts, tokenise
from trainer.models import head, load_tokenizer, require_length
from trainer.reports import REPORT, LogPoint, RunReport, TrainSettings

Progress = Callable[[int, int, float], None]
BEGUN, CHECKPOINTS, SIZES = "begun.json", "checkpoints", "sizes.json"
LOGS_PER_RUN, SAVES_PER_RUN = 50, 5


def train(
    plan: Plan,
    model: str | Path,
    data: str | Path,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """Build the planned mixture of LoRA experts on a model and fine-tune it.

    Args:
        plan: what to build.
        model: the base model, a folder or a hub id.
        data: a dataset file; its columns decide the task.
        output: the run's folder.
        settings: how to train.
        resume: go on from the newest checkpoint in `output`, if there is one.
        progress: called as progress(step, steps, loss).

    Raises:
        InputError: a plan or file that does not fit, a folder that already holds a run, or a loss that is not finite.
    """
    output = Path(output)
    run = _prepare(plan, open_checkpoint(model), read_texts(data), settings or TrainSettings())
    built = build(run.checkpoint, plan, run.config)
    last = _claim(output, run, resume)
    trainer = _AdapterTrainer(
        model=built,
        args=_arguments(output, run.settings, len(run.examples.rows)),
        train_dataset=run.examples.rows,
        data_collator=collator(run.config.kind, run.tokenizer),
        callbacks=[_Watch(progress)],
    )
    trainer.remove_callback(PrinterCallback)
    with _tidy(output):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    save_adapters(output, trainer.model, plan, run.config)
    report = _report(run, trainer)
    report.save(output / REPORT)
    return report


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


def _prepare(plan: Plan, checkpoint: Checkpoint, texts: Texts, settings: TrainSettings) -> _Run:
    require_match(plan, checkpoint)
    labels = texts.labels if texts.kind == "classification" else ()
    if texts.kind == "causal" and not plan.parameters:
        raise InputError("the plan adapts nothing and a language model has no new head: there is nothing to train")
    if len(labels) == 1:
        raise InputError(f"{texts.path}: only one label, {labels[0]!r}; there is nothing to tell apart")
    tokenizer = load_tokenizer(checkpoint.folder)
    require_length(checkpoint, settings.max_length)
    counts = Counter(texts.rows["label"]) if labels else Counter()
    config = AdapterConfig(
        base_model_name_or_path=checkpoint.source,
        kind=texts.kind,
        labels=labels,
        label_counts=tuple(counts[label] for label in labels),
        max_length=settings.max_length,
        seed=settings.seed,
        pad_token_id=tokenizer.pad_token_id,
        base_weights=checkpoint.weights,
    )
    examples = tokenise(texts, tokenizer, settings.max_length, labels)
    digest = hashlib.sha256(texts.path.read_bytes()).hexdigest()
    return _Run(
        plan=plan,
        checkpoint=checkpoint,
        settings=settings,
        config=config,
        data_sha256=digest,
        tokenizer=tokenizer,
        examples=examples,
    )


def _claim(output: Path, run: _Run, resume: bool) -> Path | None:
    """Take a folder for this run, or find the checkpoint to go on from.

    Raises:
        InputError: the folder holds a run and `resume` is not asked for, or it holds a run of another plan, data or settings.
    """
    begun = output / BEGUN
    mine = run.settings.model_dump(mode="json") | run.config.model_dump(mode="json") | {"plan": run.plan.model_dump(mode="json")}
    text = json.dumps(mine | {"data_sha256": run.data_sha256}, sort_keys=True, indent=1) + "\n"
    if (begun.exists() or (output / CHECKPOINTS).exists()) and not resume:
        raise InputError(f"{output}: already holds a run; add --resume to go on with it, or choose another folder")
    if begun.exists() and json.dumps(read_json(begun), sort_keys=True, indent=1) + "\n" != text:
        raise InputError(f"{output}: holds a run of another plan, model, data or settings; choose another folder")
    write_atomic(begun, text)
    whole = [path for path in output.glob(f"{CHECKPOINTS}/checkpoint-*") if _is_whole(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


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
    except BaseException as error:
        if not any(_is_whole(path) for path in output.glob(f"{CHECKPOINTS}/checkpoint-*")):
            shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
            (output / BEGUN).unlink(missing_ok=True)
            if not any(output.iterdir()):
                output.rmdir()
        if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch's way to say that a write failed
            raise InputError(f"{output / CHECKPOINTS}: a checkpoint cannot be written; is the disk full?") from None
        raise


def _arguments(output: Path, settings: TrainSettings, examples: int) -> TrainingArguments:
    per_epoch = math.ceil(examples / settings.batch_size)
    steps = settings.max_steps or max(1, math.ceil(per_epoch * settings.epochs))
    return TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * steps),
        lr_scheduler_type="linear",
        logging_steps=max(1, steps // LOGS_PER_RUN),
        logging_nan_inf_filter=False,
        save_steps=max(1, math.ceil(steps / SAVES_PER_RUN)),
        save_total_limit=2,
        seed=settings.seed,
        bf16=settings.precision == "bf16" or (settings.precision == "auto" and _has_bf16_units()),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _has_bf16_units() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch we support
    return bool(capabilities.get("amx_bf16", False))


class _AdapterTrainer(Trainer):
    """transformers.Trainer that checkpoints what is trained and not the frozen base."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        write_atomic(Path(output_dir or self.args.output_dir) / WEIGHTS, save(trained_state(self.model)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_state(Path(resume_from_checkpoint) / WEIGHTS, model or self.model)


class _Watch(TrainerCallback):
    """Reports progress, and stops a run whose loss is no number any more."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.loss = math.nan

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.loss = logs.get("loss", self.loss)
        if "loss" in logs and not math.isfinite(self.loss):
            raise InputError(f"loss is {self.loss} at step {state.global_step}; lower the learning rate ({args.learning_rate})")

        if self.progress:
            self.progress(state.global_step, state.max_steps, self.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps, self.loss)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole, with the sizes of its files."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        write_atomic(folder / SIZES, json.dumps(sizes, indent=1) + "\n")


def _report(run: _Run, trainer: Trainer) -> RunReport:
    curve = tuple(
        LogPoint(step=entry["step"], loss=entry["loss"], learning_rate=entry["learning_rate"])
        for entry in trainer.state.log_history
        if "loss" in entry
    )
    return RunReport(
        model=model_info(run.checkpoint),
        strategy=run.plan.strategy,
        settings=run.settings,
        examples=len(run.examples.rows),
        truncated=run.examples.truncated,
        steps=trainer.state.global_step,
        adapter_parameters=run.plan.parameters,
        head_parameters=sum(parameter.numel() for parameter in head(trainer.model).values()),
        curve=curve,
    )
