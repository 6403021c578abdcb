"""The command that shows the whole path."""

import shlex
from pathlib import Path

import click

from spectra.core.terminal import PATH, show
from trainer.recipes.commands import run, run_command


@click.command()
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True, help="Folder for everything the demo makes.")
@click.option("--classifier", is_flag=True, help="Instead train a MiniLM classifier on docstrings labelled by their chapter.")
@click.pass_context
def demo(ctx: click.Context, output: Path, classifier: bool) -> None:
    """Run the whole path in a few minutes: SmolLM2, a real language model, learns from Python's own standard library."""
    from trainer.demo import classifier as of_classifier
    from trainer.demo import language

    chosen = of_classifier if classifier else language
    click.secho("preparing the model and the examples", bold=True)
    inputs = chosen.prepare(output)
    given = {"model": str(inputs.model), "data": (inputs.train,), "tests": (inputs.test,), "output": output}
    shown = (
        "run",
        chosen.RECIPE,
        "--model",
        str(inputs.model),
        "--data",
        str(inputs.train),
        "--test",
        str(inputs.test),
        "-o",
        str(output),
    )
    click.secho("$ plan " + shlex.join(shown), bold=True)
    ctx.invoke(run, recipe=chosen.RECIPE, changes=(), small=False, as_json=False, **given)
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    for step in chosen.afterwards(output):
        click.secho(f"\n{step.comment}" if step.comment else "", bold=True)
        if step.before is not None:
            step.before()
        click.secho("$ plan " + shlex.join(step.arguments), bold=True)
        run_command(group, step.arguments)
    show(*chosen.summary(output))
