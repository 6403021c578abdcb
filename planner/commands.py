"""The commands that make and check plans."""

from pathlib import Path

import click

from planner.exporters import EXPORTERS
from planner.settings import AllocationSettings
from planner.solver.budget import BUDGET_FORMS
from spectra import InputError
from spectra.core.files import require_apart, write_atomic
from spectra.core.terminal import PATH, Name, SettingsCommand, json_option, show


@click.command(cls=SettingsCommand, settings=AllocationSettings)
@click.option(
    "--spectra", type=PATH, help="Report of plan analyze, or a CSV of alphas (name, rows, cols, alpha; or weightwatcher's table)."
)
@click.option("--sensitivity", type=PATH, multiple=True, help="Report of plan probe; repeat for several tasks.")
@click.option("--model", help="Model whose checkpoint gives the names and shapes of the modules.")
@click.option("--budget", required=True, help=f"Size of the plan: {BUDGET_FORMS}.")
@click.option("-o", "--output", type=PATH, default=Path("plan.json"), show_default=True, help="Plan to write.")
@json_option
def allocate(
    spectra: Path | None,
    sensitivity: tuple[Path, ...],
    model: str | None,
    budget: str,
    output: Path,
    as_json: bool,
    settings: AllocationSettings,
) -> None:
    """Decide how many LoRA experts of what ranks every module gets within a budget.

    Example: plan allocate --spectra spectra.json --sensitivity sensitivity.json --budget 1%
    """
    import planner
    from planner.views.tables import plan_summary, plan_table
    from spectra import load_spectra, open_checkpoint
    from spectra.checkpoint.folder import files_of

    given = [budget] if budget.endswith(".json") else []
    require_apart({"output": output}, [*filter(None, [spectra]), *sensitivity, *given, *(files_of(model) if model else [])])
    plan = planner.allocate(
        budget,
        settings,
        spectra=load_spectra(spectra) if spectra else None,
        sensitivity=planner.join([planner.SensitivityReport.load(path) for path in sensitivity]) if sensitivity else None,
        model=open_checkpoint(model) if model else None,
    )
    plan.save(output)
    if as_json:
        click.echo(plan.to_json(), nl=False)
    else:
        show(plan_table(plan), plan_summary(plan), f"wrote {output}")


@click.command()
@click.argument("plan", type=PATH)
@click.argument("model")
def check(plan: Path, model: str) -> None:
    """Check that PLAN can be trained on MODEL; every mismatch is listed.

    Example: plan check plan.json all-MiniLM-L6-v2
    """
    from planner import Plan, mismatches
    from spectra import open_checkpoint

    loaded = Plan.load(plan)
    faults = mismatches(loaded, open_checkpoint(model))
    for fault in faults:
        click.echo(f"{plan}: {fault}", err=True)
    if faults:
        raise InputError(f"{plan} does not fit {model}: {len(faults)} mismatch{'es' * (len(faults) > 1)}")
    click.echo(f"{plan} fits {model}: {len(loaded.sites)} sites, {loaded.parameters:,} trainable parameters")


@click.command()
@click.argument("plan", type=PATH)
@click.option("--format", "form", type=Name(EXPORTERS), required=True, help="Format to write; peft is an adapter_config.json.")
@click.option("-o", "--output", type=PATH, help="File to write.  [default: standard output]")
def export(plan: Path, form: str, output: Path | None) -> None:
    """Export PLAN as a PEFT config, CSV, Markdown or YAML.

    Example: plan export plan.json --format peft -o adapter_config.json
    """
    from planner import Plan
    from planner import export as convert

    require_apart({"output": output}, [plan])
    text = convert(Plan.load(plan), form)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomic(output, text)
        show(f"wrote {output}")
