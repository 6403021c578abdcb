"""The command that looks at data."""

from pathlib import Path

import click

from spectra.core.files import require_apart, write_atomic
from spectra.core.terminal import PATH, SettingsCommand, json_option, show
from trainer.settings import DataSettings


@click.command(cls=SettingsCommand, settings=DataSettings)
@click.argument("file", type=PATH)
@click.option("--model", required=True, help="Base model, a folder or a Hub id.")
@click.option("--eval-data", "held_out", type=PATH, multiple=True, help="File to evaluate on, to find rows that are in both.")
@click.option("--html", type=PATH, help="Also write a page to this file.")
@json_option
def data(file: Path, model: str, held_out: tuple[Path, ...], html: Path | None, as_json: bool, settings: DataSettings) -> None:
    """Show what FILE is to a model: its format, lengths, duplicates, and which tokens are learned.

    FILE is a dataset file, a folder of them, or hub:OWNER/NAME:SPLIT for a data set on the Hugging Face Hub.

    Example: plan data train.jsonl --model SmolLM2-135M-Instruct
    """
    from spectra import open_checkpoint
    from spectra.checkpoint.folder import files_of
    from trainer.preview.measure import measure
    from trainer.preview.tables import page, summary
    from trainer.quiet import quiet_libraries

    if html is not None:
        require_apart({"html": html}, [file, *held_out, *files_of(model)])
    quiet_libraries()
    report = measure(open_checkpoint(model), file, settings, held_out=held_out)
    if html is not None:
        write_atomic(html, page(report))
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        show(*summary(report), *([f"wrote {html}"] if html else []))
