"""The command that runs recipes."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path

import click

from spectra.core.terminal import PATH, SettingsCommand, json_option, show
from trainer.recipes.recipe import shipped


@click.command()
@click.argument("recipe", metavar="RECIPE")
@click.option("--model", required=True, help="Base model, a folder or a Hub id.")
@click.option("--data", type=PATH, multiple=True, required=True, help="Training file; repeat for several tasks.")
@click.option(
    "--test", "tests", type=PATH, multiple=True, help="Held-out file.  [default: a tenth of every training file is kept back]"
)
@click.option(
    "--set", "changes", multiple=True, metavar="STEP.OPTION=VALUE",
    help="Another value of an option, such as train.epochs=1; without a value the option is left out. Repeat for several.",
)  # fmt: skip
@click.option("--small", is_flag=True, help="Take the recipe's small section, which ends in minutes.")
@click.option("-o", "--output", type=PATH, default=Path("recipe"), show_default=True, help="Folder for everything.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    recipe: str,
    model: str,
    data: tuple[Path, ...],
    tests: tuple[Path, ...],
    changes: tuple[str, ...],
    small: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Run a RECIPE from analysis to evaluation: RECIPES, or a YAML file of your own.

    Every command is printed before it runs. A run that was interrupted goes on when the same command is given again.

    Example: plan run alphalora --model all-MiniLM-L6-v2 --data train.jsonl --small
    """
    from spectra import open_checkpoint
    from trainer.recipes.recipe import Recipe, parse_changes
    from trainer.recipes.run import (
        check,
        for_task,
        options_of,
        parts_of,
        require_fit,
        require_folder,
        require_warmup,
        run_steps,
    )
    from trainer.recipes.steps import Place

    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    chosen = Recipe.load(recipe)
    chosen = chosen.with_small() if small else chosen
    offers = {step: list(options_of(group.commands[step])) for step in chosen.steps}
    chosen = chosen.with_options(parse_changes(chosen, changes, offers))
    checkpoint = open_checkpoint(model)
    require_fit(chosen, recipe, checkpoint)
    require_folder(output, checkpoint)
    given, held = tuple(map(str, data)), tuple(map(str, tests))
    files, held = (given, held) if held else parts_of(given, output)
    whole = () if tests else given
    place = Place(folder=output, model=model, data=files, tests=held, steps=tuple(chosen.steps), whole=whole)
    lines = check(chosen, recipe, group.commands, place)
    training = group.commands["train"]
    assert isinstance(training, SettingsCommand)
    if "train" in lines:
        require_warmup(lines["train"], training, place)

    def tell(text: str) -> None:
        click.secho(f"\n{text}", bold=True, err=as_json)

    def fit(written: tuple[str, ...]) -> tuple[str, ...]:
        kept, left_out = for_task(written, training, place)
        for option, why in left_out.items():
            tell(f"left out {option}, which has no effect {why}")
        return kept

    call = partial(run_command, group, quiet=as_json)
    found = run_steps(lines, chosen.title, place, call, tell, fit)
    if as_json:
        click.echo(found.to_json(), nl=False)
    else:
        show(f"\n{chosen.title}: everything is in {output}/")


run.help = (run.help or "").replace("RECIPES", ", ".join(shipped()))


def run_command(group: click.Group, arguments: Sequence[str], quiet: bool = False) -> None:
    """Run a command through the whole command line, as typed; an error of it reaches our own group, and Ctrl-C ends all.

    Args:
        group: the command line.
        arguments: what would be typed after `plan`.
        quiet: print on standard error what the command has for standard output.
    """
    with redirect_stdout(sys.stderr) if quiet else nullcontext():
        # Not standalone, so that it raises instead of ending the process; Ctrl-C is the one thing it only returns.
        code = group.main(list(arguments), standalone_mode=False)
    if code:
        raise click.exceptions.Exit(code)
