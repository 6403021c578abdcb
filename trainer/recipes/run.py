"""Running a recipe: everything is checked before the first step, and a run that was interrupted goes on where it stopped."""

import math
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import click

from planner import Plan
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.checkpoint.chosen import chosen_modules
from spectra.checkpoint.names import expert_index, is_adaptable
from spectra.core.documents import Document, Value
from spectra.core.files import require_apart, require_place, require_regular
from spectra.core.locks import held
from spectra.core.terminal import SettingsCommand
from spectra.report import ModelInfo
from trainer.data.files import content_sha256, from_hub
from trainer.data.split import SHARE, split
from trainer.recipes.recipe import Recipe
from trainer.recipes.steps import ORDER, PLAN, RUN, Place, line
from trainer.run_folder import CHECKPOINTS, EVALUATION, MANIFEST, REPORT
from trainer.settings import TrainSettings

RECORD = "recipe.json"
DATA = "data"
"""Folder of the parts of the data, where no held-out file was given."""
OWN = ("output", "data", "model", "resume", "json", "config", "help")
"""Options that a run gives its steps itself."""
Call = Callable[[tuple[str, ...]], None]
"""Runs a command, given as it would be typed after `plan`."""


class Done(Value):
    """A step that has run to its end."""

    step: str
    arguments: tuple[str, ...]
    """The command, as it was given."""


class RecipeRun(Document):
    """The record of a recipe's run: what it is about, and the steps that are done."""

    kind: Literal["recipe run"] = "recipe run"
    title: str
    model: ModelInfo
    files: dict[str, str]
    """Dataset file -> SHA-256 of its bytes."""
    done: tuple[Done, ...] = ()


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that a recipe may give, by their long names."""
    with click.Context(command) as ctx:
        options = [parameter for parameter in command.get_params(ctx) if isinstance(parameter, click.Option)]
    found = {option.opts[-1].lstrip("-"): option for option in options}
    return {name: option for name, option in found.items() if name not in OWN}


def check(recipe: Recipe, source: str, commands: Mapping[str, click.Command], place: Place) -> dict[str, tuple[str, ...]]:
    """Read every step as the command line would, before any of them runs.

    Args:
        recipe: its steps.
        source: the recipe's name, for messages.
        commands: the commands of `plan`.
        place: where it is to run.

    Returns:
        Step -> its command, as it would be typed after `plan`.

    Raises:
        InputError: an option that a command does not have, or a value that it does not take.
    """
    lines = {}
    for step, options in recipe.steps.items():
        offered = options_of(commands[step])
        for name, value in options.items():
            where = f"{source}: {step}: {name}"
            if name in OWN:
                raise InputError(f"{where}: is given by the run itself; leave it out")
            if name not in offered:
                raise InputError(f"{where}: no such option; plan {step} --help lists them")
            if not isinstance(value, str) and (not value or not offered[name].multiple):
                raise InputError(f"{where}: takes one value, found a list of {len(value)}")
            flag = offered[name].is_flag
            if flag != (value in ("true", "false")):
                raise InputError(f"{where}: {value!r}: {'is on or off; write true or false' if flag else 'takes a value'}")
        lines[step] = line(step, options, place)
        command = commands[step]
        try:
            with command.make_context(step, list(lines[step][1:])) as ctx:
                if isinstance(command, SettingsCommand):
                    command.gathered(ctx)
        except click.UsageError as error:
            raise InputError(f"{source}: {step}: {error.format_message()}") from None
        except InputError as error:
            raise InputError(f"{source}: {step}: {str(error).removeprefix('settings: ')}") from None
    return lines


def require_fit(recipe: Recipe, source: str, checkpoint: Checkpoint) -> None:
    """Refuse a model that lacks what the recipe is about.

    Raises:
        InputError: no routed experts where the recipe is about them, or none of the modules that it names.
    """
    names = [name for name in checkpoint.modules() if is_adaptable(name)]
    if recipe.needs == "experts" and not any(expert_index(name) is not None for name in names):
        raise InputError(f"{source}: is about models with routed experts, and {checkpoint.name} has none")
    for step, options in recipe.steps.items():
        if isinstance(asked := options.get("modules"), str):
            try:
                chosen_modules(names, asked)
            except InputError as error:
                raise InputError(f"{source}: {step}: {error}") from None


def for_task(written: tuple[str, ...], command: SettingsCommand, place: Place) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """A command of training without what means nothing to the data's task: recipes are written for language models.

    Args:
        written: the command, from `check`.
        command: `plan train`.
        place: where its plan and data are.

    Returns:
        The command, and option -> why it was left out. What has no effect for another reason stays, and is refused by name.
    """
    from trainer.data.dataset import read_texts
    from trainer.training.effects import Situation, without_effect

    with command.make_context("train", list(written[1:])) as ctx:
        settings = command.gathered(ctx)
    assert isinstance(settings, TrainSettings)
    about = {"plan": Plan.load(place.folder / PLAN), "settings": settings}
    idle = without_effect(Situation(**about, task=read_texts(place.data[0], settings=settings).task))  # type: ignore[arg-type]
    anyway = without_effect(Situation(**about))  # type: ignore[arg-type]
    left = {f"--{name.replace('_', '-')}": why for name, why in idle.items() if name not in anyway}
    kept = list(written)
    for flag in left:  # none of these is a flag without a value
        at = kept.index(flag)
        del kept[at : at + 2]
    return tuple(kept), left


def require_warmup(written: tuple[str, ...], command: SettingsCommand, place: Place) -> None:
    """Refuse a warm-up that is longer than the training will be, as far as that is known before the data are tokenised.

    Raises:
        InputError: the warm-up, and how many steps there are.
    """
    from trainer.data.dataset import read_texts
    from trainer.training.loop import steps_of, warmup_steps

    with command.make_context("train", list(written[1:])) as ctx:
        settings = command.gathered(ctx)
    assert isinstance(settings, TrainSettings)
    if settings.packing and not settings.max_steps:  # how many rows there will be nobody knows
        return
    counts = [len(read_texts(file, settings=settings).rows) for file in place.whole or place.data]
    held = [math.ceil(SHARE * count) if place.whole else 0 for count in counts]
    warmup_steps(settings, steps_of(settings, sum(counts) - sum(held)))


def parts_of(data: tuple[str, ...], folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the parts of every training file will be, if a tenth of it is kept back: to train on, and to evaluate on."""
    stems = [folder / DATA / str(number) for number in range(len(data))]
    return tuple(f"{stem}-train.jsonl" for stem in stems), tuple(f"{stem}-validation.jsonl" for stem in stems)


def run_steps(
    lines: Mapping[str, tuple[str, ...]],
    title: str,
    place: Place,
    call: Call,
    tell: Callable[[str], None],
    fit: Callable[[tuple[str, ...]], tuple[str, ...]],
) -> RecipeRun:
    """Run the steps that are not done yet.

    Args:
        lines: step -> its command, from `check`.
        title: of the recipe.
        place: where it runs.
        call: runs a command.
        tell: is given every command before it runs.
        fit: is given the command of the training once there is a plan, and may leave options out.

    Raises:
        InputError: the folder holds a run of another model, of other data, or of other options at a step that is done.
    """
    files = {file: _sha256(file) for file in dict.fromkeys(place.whole or (*place.data, *place.tests))}
    if place.whole:
        parts = {f"a part of {file}": Path(file) for file in (*place.data, *place.tests)}
        require_apart({"output": place.folder / RECORD, **parts}, place.whole)
    record = RecipeRun(title=title, model=ModelInfo.of(open_checkpoint(place.model)), files=files)
    with held(place.folder, "runs a recipe in this folder"):
        done = _claimed(record, lines, place.folder)
        if place.whole:
            for number, file in enumerate(place.whole):
                split(Path(file), place.folder / DATA, number)
            tell(f"a tenth of the data is kept back for evaluation: {', '.join(place.tests)}")
        for number, (step, written) in enumerate(lines.items()):
            if number < len(done):
                tell(f"{step} is done: {place.at(ORDER[step].output) if ORDER[step].output else place.at(RUN)}")
                continue
            fitted = fit(written) if step == "train" else written
            resumed = (*fitted, "--resume") if step == "train" and _begun(place.folder / RUN) else fitted
            tell("$ plan " + shlex.join(resumed))
            call(resumed)
            done = (*done, Done(step=step, arguments=written))
            record.model_copy(update={"done": done}).save(place.folder / RECORD)
    return record.model_copy(update={"done": done})


def _claimed(record: RecipeRun, lines: Mapping[str, tuple[str, ...]], folder: Path) -> tuple[Done, ...]:
    """The steps that a run before this one has finished; what they wrote has to be there still."""
    path = folder / RECORD
    if not path.exists():
        return ()
    before = RecipeRun.load(path)
    for what in ("title", "model", "files"):
        if getattr(before, what) != getattr(record, what):
            named = {"title": "another recipe", "model": "another model", "files": "other data"}[what]
            raise InputError(f"{folder}: holds a run of {named}; choose another folder")
    kept: list[Done] = []
    for one, (step, written) in zip(before.done, lines.items(), strict=False):
        if one.arguments != written:
            raise InputError(
                f"{folder}: {one.step} was run with other options, plan {shlex.join(one.arguments)}; choose another folder"
            )
        if not _result(step, folder).exists():
            break
        kept.append(one)
    return tuple(kept)


def _result(step: str, folder: Path) -> Path:
    """The file or folder by which a step's work is known."""
    names = {"train": f"{RUN}/{REPORT}", "evaluate": f"{RUN}/{EVALUATION}"}
    return folder / names.get(step, ORDER[step].output)


def _begun(run_folder: Path) -> bool:
    return any((run_folder / name).exists() for name in (MANIFEST, CHECKPOINTS, REPORT))


def _sha256(file: str) -> str:
    if Path(file).is_dir() or from_hub(Path(file)):
        return content_sha256(Path(file))
    return content_sha256(require_regular(file))


def require_folder(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse to write into the model's own folder.

    Raises:
        InputError: the folder cannot be written, or is the model's.
    """
    if require_place(folder) == checkpoint.folder.resolve():
        raise InputError(f"{folder}: the folder of the model itself; choose another")


def start_over(folder: Path, recipe: Recipe) -> None:
    """Forget a run of a recipe that came to its end, so that the next one begins anew; one that was interrupted goes on."""
    path = folder / RECORD
    if path.exists() and [one.step for one in RecipeRun.load(path).done] == list(recipe.steps):
        path.unlink()
        shutil.rmtree(folder / RUN, ignore_errors=True)
