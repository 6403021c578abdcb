"""The loop of a run: transformers.Trainer with the routers' losses, small checkpoints and a callback that monitors it."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from planner.modules.labelled import labelled_losses, learned_positions, token_losses
from spectra import InputError
from spectra.core.distributed import wait_for_all
from spectra.core.files import write_atomic
from spectra.core.progress import Progress
from trainer.adapters.tensors import load_state, trained_state
from trainer.data.by_length import ByLength
from trainer.layers.base_routers import router_parameters
from trainer.layers.inject import router_state_of
from trainer.limits import DivergedError
from trainer.report import EvaluationPoint, LogPoint, RouterHealth
from trainer.run_folder import CHECKPOINTS, WEIGHTS
from trainer.settings import TrainSettings
from trainer.training.claim import seal
from trainer.training.growth import Growth
from trainer.training.sharding import averaged, is_sharded

IS_B = re.compile(r"\.B(\.\w+)?$")  # names of parameters: of mixtures, and of experts' projections
LOGS_PER_RUN, SAVES_PER_RUN = 50, 5
COUNTED = "counted"  # in a pass: (batch,) booleans, whether an example is new in this epoch; absent where all are
LOGGERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def arguments(output: Path, settings: TrainSettings, examples: int, evaluates: bool) -> TrainingArguments:
    """The Trainer's arguments.

    Raises:
        InputError: a batch that cannot be split evenly, or a logger that is not installed.
    """
    _require_logger(settings.report_to)
    # How many processes there are is known only to TrainingArguments, which joins them, and the batch of each depends on it. So
    # the arguments are made for one process, asked, and made again if there are more.
    made = _arguments(output, settings, examples, evaluates, processes=1)
    # `n_gpu` has no setter; the attribute behind it is read when the Trainer computes its batch and wraps the model.
    if made.world_size == 1 and made.n_gpu > 1:
        made._n_gpu = 1  # several GPUs are for torchrun; the Trainer would split each batch among them and multiply it
    return made if made.world_size == 1 else _arguments(output, settings, examples, evaluates, made.world_size)


def _arguments(output: Path, settings: TrainSettings, examples: int, evaluates: bool, processes: int) -> TrainingArguments:
    parts = processes * settings.accumulation
    if settings.batch_size % parts:
        raise InputError(
            f"`batch_size` {settings.batch_size} cannot be split into {processes} processes x {settings.accumulation} passes"
        )
    # Counted here and not by the Trainer, because warm-up, logs, saves and growth are all spread over the steps.
    steps = steps_of(settings, examples)
    return TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size // parts,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.rate,
        weight_decay=settings.weight_decay,
        warmup_steps=warmup_steps(settings, steps),
        lr_scheduler_type=settings.schedule,
        logging_steps=max(1, steps // LOGS_PER_RUN),
        # Otherwise the Trainer logs the mean of earlier losses in place of NaN, and nobody would notice a run that diverged.
        logging_nan_inf_filter=False,
        save_steps=max(1, math.ceil(steps / SAVES_PER_RUN)),
        # The newest may have been cut short by whatever ended the run; the one before is then gone on from.
        save_total_limit=2,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=max(1, math.ceil(steps / settings.evaluations)),
        # Otherwise the logits of the whole evaluation file would be kept, for a language model a vocabulary per token.
        prediction_loss_only=True,
        seed=settings.seed,
        # Otherwise the Trainer would take an Apple GPU where there is one; everything else here knows only cpu and cuda.
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=settings.report_to,
        dataloader_pin_memory=torch.cuda.is_available(),
        # By default DDP would search each step's graph for parameters without a gradient; ours always have one.
        ddp_find_unused_parameters=False,
    )


def steps_of(settings: TrainSettings, examples: int) -> int:
    """Optimiser steps of a run; an epoch's last, smaller batch is one."""
    per_epoch = math.ceil(examples / settings.batch_size)
    return settings.max_steps or max(1, math.ceil(per_epoch * settings.epochs))


def warmup_steps(settings: TrainSettings, steps: int) -> int:
    """Steps of the warm-up.

    Raises:
        InputError: it would be longer than the run, or is a number of steps with a fraction.
    """
    if settings.warmup < 1:
        return round(settings.warmup * steps)
    if settings.warmup > steps or settings.warmup % 1:
        raise InputError(
            f"`warmup` {settings.warmup:g}: from 1 on a whole number of steps, and this run has {steps}; below 1 a share of them"
        )
    return int(settings.warmup)


def _require_logger(name: str) -> None:
    from importlib.util import find_spec

    packages = LOGGERS.get(name, ())
    if packages and not any(find_spec(package) for package in packages):
        raise InputError(f"`report_to` {name!r}: not installed; run: pip install {packages[0]}")


class AdapterTrainer(Trainer):
    """transformers.Trainer that adds the routers' losses and checkpoints what is trained, not the frozen base."""

    def __init__(self, *arguments: Any, growth: Growth | None = None, settings: TrainSettings, **keywords: Any) -> None:
        """Prepare a training run; the arguments are transformers.Trainer's, growth if ranks grow, and the run's settings."""
        super().__init__(*arguments, **keywords)
        # The Trainer infers from a model's signature whether its loss is a mean over a pass or over the whole step, and is wrong
        # about classifiers. `compute_loss` below asks no model for its loss: it is always over the whole step, which this says.
        self.model_accepts_loss_kwargs = True
        self.growth, self.settings = growth, settings
        self.router_state = router_state_of(self.model)
        self.health: tuple[RouterHealth, ...] = ()
        """Health of the routers when it was last logged."""

    def restore(self, checkpoint: Path) -> None:
        """Take up a checkpoint whose run has no step left: its tensors and what it logged."""
        # No optimiser and no generators: nothing is trained any more, only reported and saved.
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The passes of a step, and how many labels they have together, on all processes."""
        passes, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        ends = self.accelerator.gradient_state
        if passes and ends.end_of_dataloader and ends.remainder > 0:
            # An epoch's last passes are filled up with its first examples, so that all processes get alike many. Only the first
            # `remainder` of these passes' examples, counted over the processes, are new.
            labels = passes[-1]["labels"]
            new = ends.remainder - self.accelerator.process_index * self.args.per_device_train_batch_size
            passes[-1][COUNTED] = torch.arange(len(labels), device=labels.device) < new
        count = torch.tensor(sum(_label_count(one) for one in passes), device=device)
        return passes, self.accelerator.gather(count).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training the mean over all labels of a step plus the routers' mean auxiliary loss; else the mean over examples."""
        labels = inputs["labels"]
        given = {name: part for name, part in inputs.items() if name not in ("labels", COUNTED)}
        if not model.training:
            # As `plan evaluate` has it, so that neither the size of a batch nor the number of processes shows.
            loss = labelled_losses(model, given, labels).mean()
            return (loss, {"loss": loss}) if return_outputs else loss
        if self.router_state is not None:
            self.router_state.learned_mask = learned_positions(labels)
        if labels.ndim == 2:
            losses, rows = token_losses(model, given, labels)
        else:
            losses, rows = labelled_losses(model, given, labels), torch.arange(len(labels), device=labels.device)
        if COUNTED in inputs:
            # Times zero and not left out: DDP waits for the gradients of every process, those that have nothing new as well.
            losses = losses * inputs[COUNTED][rows]
        # The labels are those of all passes, which are summed, and of all processes, over which DDP averages.
        loss = losses.sum() / num_items_in_batch * self.accelerator.num_processes
        extra = self.router_state.loss() if self.router_state is not None else None
        if extra is not None:
            # A mean over passes, of which an epoch's last step may have fewer, and by DDP over processes.
            loss = loss + extra / self.current_gradient_accumulation_steps
        return (loss, {"loss": loss}) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if not self.settings.group_by_length:
            return super()._get_train_sampler(train_dataset)
        return ByLength([len(tokens) for tokens in rows["input_ids"]], self.settings.batch_size, self.settings.seed)

    def create_optimizer(self, model: Any = None) -> Any:
        """The Trainer's optimiser, with a learning rate of their own for all B (LoRA+, arXiv 2402.12354)."""
        made = super().create_optimizer(model)
        if self.settings.lr_ratio != 1:
            of_B = {id(parameter) for name, parameter in self.model.named_parameters() if IS_B.search(name)}
            for group in list(made.param_groups):
                faster = [parameter for parameter in group["params"] if id(parameter) in of_B]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_B]
                if faster:
                    rate = self.args.learning_rate * self.settings.lr_ratio
                    made.add_param_group({**group, "params": faster, "lr": rate, "initial_lr": rate})
        return made

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Add the routers' health to the training curve, before any logger sees it."""
        # Evaluations and the end of training are logged here too, without a `loss`; they would take what was recorded.
        if self.router_state is not None and "loss" in logs and (found := self.router_state.health()):
            self.health = found
            logs |= means(found)
        super().log(logs, *arguments, **keywords)

    # Overrides whose names begin with _ are private to transformers.Trainer, which has no public place for any of them. One that
    # is renamed there would no longer be called.
    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not is_sharded(model):  # shards are where they belong
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: Any, training: bool = True, **keywords: Any) -> Any:
        if not (training and is_sharded(model)):
            return super()._wrap_model(model, training, **keywords)
        # Accelerate would put all of it into DDP, which knows no shards; `evaluation_mode` asks it for mixed precision only.
        return averaged(self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True), model)

    # The Trainer's own writes the whole model, frozen base and tokenizer included, at every checkpoint.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Called on every process, all of which hold the same adapters.
        if self.args.should_save:
            write_atomic(Path(output_dir or self.args.output_dir) / WEIGHTS, save(trained_state(self.model)))

    # The Trainer's own takes a file of this name for PEFT's, and on a model that is none looks for a sharded checkpoint.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.growth is not None:
            # Ranks before tensors, which are read expert by expert by their ranks.
            self.growth.load(Path(resume_from_checkpoint))
        load_state(Path(resume_from_checkpoint) / WEIGHTS, model or self.model)


class RouterCallback(TrainerCallback):
    """Keeps the base's own routers as they are until the learning rate has risen (DR-LoRA, arXiv 2601.04823, readme)."""

    def __init__(self, model: Any, begin: int) -> None:
        """Hold a model's trained routers still for the first `begin` steps."""
        self.routers, self.begin, self.step = list(router_parameters(model)), begin, 0
        for parameter in self.routers:
            # Before gradients are clipped, so that a router that stands still does not shorten the others' steps.
            parameter.register_hook(lambda gradient: gradient if self.step >= self.begin else torch.zeros_like(gradient))  # type: ignore[no-untyped-call]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step."""
        self.step = state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave a router that stands still out of the step, in which a weight decay would move it."""
        if self.step < self.begin:
            for parameter in self.routers:
                parameter.grad = None


class MonitorCallback(TrainerCallback):
    """Reports progress, keeps the best adapters, stops what has stopped learning or has no finite loss."""

    def __init__(self, model: Any, progress: Progress, patience: int, keep_best: Callable[[Any], None]) -> None:
        """Prepare to monitor a model's run; `keep_best(model)` saves the adapters of the best evaluation."""
        self.router_state = router_state_of(model)
        self.progress, self.patience, self.keep_best = progress, patience, keep_best
        self.loss = math.nan

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record how tokens are routed in the steps that will be logged."""
        if self.router_state is not None:
            # `global_step` counts finished steps. The last step is recorded even if no log falls on it: the report says how
            # routers ended.
            step = state.global_step + 1
            self.router_state.recording = step % args.logging_steps == 0 or step == state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Stop at a loss that is not finite."""
        self.loss = logs.get("loss", self.loss)
        if "loss" in logs and not math.isfinite(self.loss):
            raise DivergedError(
                f"loss is {self.loss} at step {state.global_step}; lower the learning rate ({args.learning_rate})"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report progress, with the last loss that was logged."""
        self.progress(state.global_step, state.max_steps, "" if math.isnan(self.loss) else f"loss {self.loss:.3f}")

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keep the best, and give up when patience is at its end."""
        # The Trainer has logged the evaluation at hand already; it is the last of these.
        losses = [point.loss for point in evaluations(state.log_history)]
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"held-out loss is {losses[-1]} at step {state.global_step}; lower the learning rate ({args.learning_rate})"
            )
        since_best = len(losses) - 1 - losses.index(min(losses))
        if since_best == 0:
            # On every process: losses are gathered, so all agree, and saving a sharded model takes all of them.
            self.keep_best(model)
        if self.patience and since_best >= self.patience:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole, with the hashes of its files."""
        # Each process writes the state of its own random numbers.
        wait_for_all()
        if state.is_world_process_zero:
            # Last, after the Trainer's files and growth's: a checkpoint without it was cut short.
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _label_count(inputs: dict[str, Any]) -> int:
    """Labels of a pass that the loss counts: classes, or tokens that something predicts."""
    labels = inputs["labels"] if inputs["labels"].ndim == 1 else inputs["labels"][:, 1:]
    counted = labels != -100
    if COUNTED in inputs:
        counted = counted[inputs[COUNTED]]
    return int(counted.sum())


def means(health: tuple[RouterHealth, ...]) -> dict[str, float]:
    """Averages over all routers, the base's own left out where nothing is known of them."""
    names = ("effective_support", "entropy", "dropped", "unserved")
    known = {name: [value for site in health if not math.isnan(value := getattr(site, name))] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def curve(history: list[dict[str, Any]]) -> tuple[LogPoint, ...]:
    """The training curve from a Trainer's log."""
    fields = LogPoint.model_fields
    return tuple(LogPoint(**{name: entry[name] for name in fields if name in entry}) for entry in history if "loss" in entry)


def evaluations(history: list[dict[str, Any]]) -> tuple[EvaluationPoint, ...]:
    """The evaluations from a Trainer's log."""
    return tuple(EvaluationPoint(step=entry["step"], loss=entry["eval_loss"]) for entry in history if "eval_loss" in entry)
