"""The `plan` command: a table of contents. Every command stands beside what it calls.

Nothing heavier than click, rich, numpy and the settings is imported before a command runs, so `plan --help`, `plan show` and
`plan check` start without torch or transformers.
"""

import logging
from typing import Any

import click

from planner.commands import allocate, check, export
from spectra import InputError, __version__
from spectra.commands import analyze
from spectra.core.errors import visible
from spectra.core.interrupt import prepare_interrupt
from spectra.core.log import LOG
from spectra.core.terminal import EchoHandler, as_options, prepare_streams
from trainer.commands import compare, evaluate, merge, plot, probe, report, show_, train
from trainer.demo.commands import demo
from trainer.preview.commands import data
from trainer.quiet import quiet_bitsandbytes
from trainer.recipes.commands import run

SECTIONS = {
    "Measure": (analyze, data, probe),
    "Plan": (allocate, show_, check, export),
    "Train": (train, evaluate, merge),
    "Study": (compare,),
    "Present": (plot, report),
    "Recipes": (run, demo),
}


class Cli(click.Group):
    """Commands in the order of the pipeline, and one line for whatever a user can cause.

    Exit codes: 0 done, 1 unusable input, 2 wrong usage, 130 interrupted.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn what it raises into a line and an exit code."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            # On one line, as an error is promised to be, even if another library's message in it has several.
            raise click.ClickException(visible(as_options(" ".join(str(error).split()), ctx))) from None
        except BrokenPipeError:  # whoever reads has read enough; click ends in silence
            raise
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from None
        except KeyboardInterrupt:
            click.echo(
                "Interrupted; nothing half-written is left. To continue, give the same command again (train with --resume).",
                err=True,
            )
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the sections."""
        return [str(command.name) for commands in SECTIONS.values() for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under their headings."""
        for heading, commands in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(str(command.name), command.get_short_help_str(90)) for command in commands], col_max=12)


@click.group(
    cls=Cli, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Plan how many LoRA experts, of what ranks, each layer of a model gets; train exactly that; see whether it paid."""
    prepare_streams()
    prepare_interrupt()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    quiet_bitsandbytes()
    # `plan demo` comes here again for each of its commands, and a second handler would print every line twice.
    if not LOG.handlers:
        LOG.addHandler(EchoHandler())
        LOG.setLevel(logging.INFO)


for _commands in SECTIONS.values():
    for _command in _commands:
        main.add_command(_command)

if __name__ == "__main__":
    main()
