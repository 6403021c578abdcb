"""The loop's pieces: the Trainer's arguments, the monitor, what a log becomes, notes on collapsed routers."""

import hashlib
import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spectra import InputError
from trainer import MixtureSettings, TrainSettings
from trainer.layers.mixture import MixtureLinear
from trainer.layers.router_state import RouterState
from trainer.limits import DivergedError
from trainer.report import EvaluationPoint, LogPoint, RouterHealth
from trainer.run_folder import CHECKPOINTS, HASHES, WEIGHTS
from trainer.training.loop import (
    AdapterTrainer,
    MonitorCallback,
    arguments,
    curve,
    evaluations,
    means,
)


def health(*shares, site="layers.0.q", entropy=0.5, dropped=0.0):
    return RouterHealth(site=site, shares=shares, entropy=entropy, effective_support=len(shares), dropped=dropped)


@pytest.mark.parametrize(
    ("changes", "examples", "steps"),
    [({}, 96, 9), ({}, 97, 12), ({"epochs": 0.5}, 97, 2), ({"epochs": 0.01}, 10, 1), ({"max_steps": 7}, 96, 7)],
)
def test_a_run_takes_its_epochs_in_whole_batches_or_the_steps_that_were_asked_for(tmp_path, changes, examples, steps):
    assert arguments(tmp_path, TrainSettings(**changes), examples, evaluates=False).max_steps == steps


def test_the_arguments_say_what_the_settings_say(tmp_path):
    settings = TrainSettings(
        max_steps=200, batch_size=12, accumulation=3, learning_rate=0.01, weight_decay=0.1, warmup=0.25, schedule="cosine",
        evaluations=8, seed=5, precision="bf16",
    )  # fmt: skip
    made = arguments(tmp_path, settings, 100, evaluates=True)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (4, 3)
    assert (made.learning_rate, made.weight_decay, made.warmup_steps, made.seed) == (0.01, 0.1, 50, 5)
    assert (made.lr_scheduler_type, made.bf16, made.report_to) == ("cosine", False, [])  # weights have the precision
    assert (made.logging_steps, made.save_steps, made.eval_steps) == (4, 40, 25)
    assert (made.eval_strategy, made.output_dir) == ("steps", str(tmp_path / CHECKPOINTS))
    assert arguments(tmp_path, settings, 100, evaluates=False).eval_strategy == "no"


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.25, 5), (0.999, 20), (1, 1), (20, 20)])
def test_warm_up_is_a_share_below_1_and_a_number_of_steps_from_there_on(tmp_path, warmup, steps):
    made = arguments(tmp_path, TrainSettings(max_steps=20, warmup=warmup), 8, evaluates=False)
    assert made.warmup_steps == steps


@pytest.mark.parametrize("warmup", [1.5, 21])
def test_a_warm_up_that_is_longer_than_the_run_is_refused(tmp_path, warmup):
    with pytest.raises(InputError, match=rf"`warmup` {warmup}: from 1 on a whole number of steps, and this run has 20"):
        arguments(tmp_path, TrainSettings(max_steps=20, warmup=warmup), 8, evaluates=False)


def test_a_batch_that_cannot_be_split_and_a_missing_logger_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"`batch_size` 8 cannot be split into 1 processes x 3 passes"):
        arguments(tmp_path, TrainSettings(batch_size=8, accumulation=3), 8, evaluates=False)
    with pytest.raises(InputError, match=r"`report_to` 'wandb': not installed; run: pip install wandb"):
        arguments(tmp_path, TrainSettings(report_to="wandb"), 8, evaluates=False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = MixtureLinear(nn.Linear(4, 4), [1, 1], 1, state=RouterState(MixtureSettings()), site="layer")


def monitor(model=None, patience=0):
    told, kept = [], []
    made = MonitorCallback(model or nn.Linear(2, 2), lambda *step: told.append(step), patience, kept.append)
    return made, told, kept


def state(step=3, losses=()):
    history = [{"step": number, "eval_loss": loss} for number, loss in enumerate(losses)]
    return SimpleNamespace(global_step=step, max_steps=10, log_history=history, is_world_process_zero=True)


def test_the_monitor_reports_every_step_with_the_last_loss():
    made, told, _ = monitor()
    made.on_step_end(None, state(1), None)
    made.on_log(SimpleNamespace(learning_rate=0.1), state(2), None, logs={"loss": 1.23456})
    made.on_log(SimpleNamespace(learning_rate=0.1), state(2), None, logs={"eval_loss": 5.0})
    made.on_step_end(None, state(2), None)
    assert told == [(1, 10, ""), (2, 10, "loss 1.235")]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(loss):
    made, _, _ = monitor()
    with pytest.raises(DivergedError, match=rf"loss is {loss} at step 3; lower the learning rate \(0\.1\)"):
        made.on_log(SimpleNamespace(learning_rate=0.1), state(3), None, logs={"loss": loss})


def test_the_best_is_kept_and_patience_counts_from_it():
    made, _, kept = monitor(patience=2)
    stops = []
    for count in range(1, 6):
        control = SimpleNamespace(should_training_stop=False)
        made.on_evaluate(None, state(losses=(3.0, 2.0, 2.5, 2.0, 2.1)[:count]), control, model=count)
        stops.append(control.should_training_stop)
    assert kept == [1, 2]  # an equal loss is no better one
    assert stops == [False, False, False, True, True]


def test_without_patience_a_run_goes_on():
    made, _, _ = monitor()
    control = SimpleNamespace(should_training_stop=False)
    made.on_evaluate(None, state(losses=(1.0, *[2.0] * 50)), control, model=None)
    assert not control.should_training_stop


def test_routing_is_recorded_in_the_steps_that_are_logged():
    model = Model()
    made, _, _ = monitor(model)
    recorded = []
    for step in range(10):
        made.on_step_begin(SimpleNamespace(logging_steps=4), state(step), None)
        recorded.append(model.layer.state.recording)
    assert [step + 1 for step, seen in enumerate(recorded) if seen] == [4, 8, 10]


def test_a_checkpoint_is_marked_whole_with_the_hashes_of_its_files(tmp_path):
    made, _, _ = monitor()
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"12345")
    other = SimpleNamespace(**vars(state()) | {"is_world_process_zero": False})
    made.on_save(SimpleNamespace(output_dir=str(tmp_path)), other, None)
    assert not (folder / HASHES).exists()
    made.on_save(SimpleNamespace(output_dir=str(tmp_path)), state(), None)
    assert json.loads((folder / HASHES).read_text()) == {WEIGHTS: hashlib.sha256(b"12345").hexdigest()}


def test_a_log_becomes_a_curve_and_evaluations():
    history = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 5.0, "epoch": 0.5, "entropy": 0.25},
        {"step": 1, "eval_loss": 1.5, "eval_runtime": 3.0},
        {"step": 2, "train_runtime": 9.0},
    ]
    (point,) = curve(history)
    assert point.model_copy(update={"effective_support": 0.0, "dropped": 0.0}) == LogPoint(
        step=1, loss=2.0, learning_rate=0.1, entropy=0.25, effective_support=0.0, dropped=0.0
    )
    assert math.isnan(point.dropped)
    assert evaluations(history) == (EvaluationPoint(step=1, loss=1.5),)


def test_health_is_averaged_over_the_routers():
    found = (health(0.5, 0.5, entropy=1.0), health(0.2, 0.3, 0.5, entropy=0.5, dropped=0.5))
    assert means(found) == {"effective_support": 2.5, "entropy": 0.75, "dropped": 0.25, "unserved": 0.0}
    base = health(1.0, entropy=math.nan, dropped=math.nan)
    assert means((*found, base))["entropy"] == 0.75
    assert means((base,)) == {"effective_support": 1.0, "unserved": 0.0}


def test_a_held_out_loss_that_is_not_finite_ends_the_run():
    made, _, kept = monitor()
    with pytest.raises(DivergedError, match=r"held-out loss is nan at step 3; lower the learning rate"):
        made.on_evaluate(SimpleNamespace(learning_rate=0.1), state(losses=(1.0, math.nan)), None, model=1)
    assert not kept


@pytest.mark.parametrize("saves", [True, False])
def test_only_a_process_that_should_save_writes_the_adapters(tmp_path, saves):
    trainer = SimpleNamespace(args=SimpleNamespace(should_save=saves, output_dir=str(tmp_path)), model=nn.Linear(2, 2))
    AdapterTrainer._save(trainer)
    assert (tmp_path / WEIGHTS).exists() == saves


class Undecided(nn.Module):
    """A classifier of two classes to which all examples look alike."""

    def forward(self):
        return SimpleNamespace(logits=torch.zeros(4, 2))


def test_the_auxiliary_loss_of_a_short_last_step_is_the_mean_over_its_own_passes():
    trainer = AdapterTrainer.__new__(AdapterTrainer)
    trainer.accelerator, trainer.current_gradient_accumulation_steps = SimpleNamespace(num_processes=1), 2
    trainer.router_state = SimpleNamespace(loss=lambda: torch.tensor(6.0))
    batch = {"labels": torch.zeros(4, dtype=torch.long)}
    assert float(trainer.compute_loss(Undecided(), batch, num_items_in_batch=8)) == pytest.approx(math.log(2) / 2 + 6 / 2)
    assert float(trainer.compute_loss(Undecided().eval(), batch, num_items_in_batch=8)) == pytest.approx(math.log(2))


def adapted(tmp_path, lr_ratio):
    """A Trainer on a mixture and a head, and its optimiser."""
    model = nn.Module()
    model.mixture, model.classifier = MixtureLinear(nn.Linear(6, 4), (2, 1), 1), nn.Linear(4, 2)
    made = arguments(tmp_path, TrainSettings(learning_rate=1e-3, max_steps=3), 96, evaluates=False)
    trainer = AdapterTrainer(model=model, args=made, settings=TrainSettings(lr_ratio=lr_ratio))
    trainer.create_optimizer_and_scheduler(made.max_steps)
    return trainer


def test_all_B_have_a_rate_of_their_own(tmp_path):
    trainer = adapted(tmp_path, lr_ratio=8.0)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = {names[id(one)]: group["initial_lr"] for group in trainer.optimizer.param_groups for one in group["params"]}
    assert rates.keys() == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert {name for name, rate in rates.items() if rate != 1e-3} == {"mixture.B"}
    assert rates["mixture.B"] == pytest.approx(8e-3)
    first, *others = trainer.lr_scheduler.get_last_lr()
    assert all(rate == pytest.approx(first) or rate == pytest.approx(8 * first) for rate in others), "one schedule for all"


def test_without_a_ratio_the_optimiser_is_the_trainers(tmp_path):
    assert {group["initial_lr"] for group in adapted(tmp_path, lr_ratio=1.0).optimizer.param_groups} == {1e-3}
