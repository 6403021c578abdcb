"""The commands that measure weights."""

from pathlib import Path

import click

from spectra.core.files import require_apart
from spectra.core.terminal import PATH, SettingsCommand, json_option, progress_bar, show
from spectra.settings import AnalysisSettings


@click.command(cls=SettingsCommand, settings=AnalysisSettings)
@click.argument("model")
@click.option("-o", "--output", type=PATH, default=Path("spectra.json"), show_default=True, help="Report to write.")
@click.option("--csv", type=PATH, help="Also write the matrices as a table, one row each.")
@click.option(
    "--keep-eigenvalues",
    "eigenvalues",
    type=PATH,
    help="Safetensors file of all eigenvalues; if it exists, none is computed again.",
)
@click.option("--device", default="cpu", show_default=True, help="Device that decomposes the matrices: cpu or cuda.")
@json_option
def analyze(
    model: str, output: Path, csv: Path | None, eigenvalues: Path | None, device: str, as_json: bool, settings: AnalysisSettings
) -> None:
    """Fit the spectral density of every weight matrix of MODEL, a folder or a Hub id.

    An interrupted analysis continues where it stopped when the same command is given again.

    Example: plan analyze all-MiniLM-L6-v2 -o spectra.json
    """
    from contextlib import nullcontext

    from spectra import analyze as run
    from spectra.checkpoint.folder import files_of
    from spectra.core.distributed import is_main_process
    from spectra.core.locks import held
    from spectra.storage.csv_table import to_csv
    from spectra.storage.journal import remove
    from spectra.views.tables import overview

    require_apart({"output": output, "csv": csv, "eigenvalues": eigenvalues}, files_of(model))
    journal = output.with_name(f".{output.name}.journal")
    # Under torchrun one process holds the place for all, writes and prints.
    with held(output, "analyses into this file") if is_main_process() else nullcontext():
        with progress_bar("spectra") as progress:
            report = run(model, settings, journal=journal, eigenvalues=eigenvalues, device=device, progress=progress)
        if not is_main_process():
            return
        report.save(output)
        if csv:
            to_csv(report, csv)
        # Not earlier: until the files are written, the journal is what an interrupted analysis goes on from.
        remove(journal)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        show(*overview(report), f"wrote {output}")
