"""The commands that measure tasks, train, study and present."""

from pathlib import Path
from typing import get_args

import click

from spectra.core.files import require_apart, write_atomic
from spectra.core.terminal import PATH, SettingsCommand, from_yaml, json_option, numbers, progress_bar, show
from trainer.data.formats import formats_help
from trainer.run_folder import EVALUATION, OWN
from trainer.settings import Precision, ProbeSettings, TrainSettings
from trainer.study.report import Bind

MODEL = {"required": True, "help": "Base model, a folder or a Hub id."}
MOVED = {"help": "Base model, if it is no longer where the run found it."}


@click.command(cls=SettingsCommand, settings=ProbeSettings)
@click.argument("model")
@click.option("--data", "files", type=PATH, multiple=True, required=True, help="Dataset file; repeat for several tasks.")
@click.option("-o", "--output", type=PATH, default=Path("sensitivity.json"), show_default=True, help="Report to write.")
@click.option("--device", default="cpu", show_default=True, help="Device that runs the model: cpu or cuda.")
@json_option
def probe(model: str, files: tuple[Path, ...], output: Path, device: str, as_json: bool, settings: ProbeSettings) -> None:
    """Estimate how much each linear module of MODEL matters for a task.

    The report holds gradient statistics from sampled examples and, for language models, a short trial run.

    Example: plan probe all-MiniLM-L6-v2 --data train.jsonl
    """
    # Imports stand inside the commands: what loads torch is loaded only by the command that needs it.
    from planner.views.tables import sensitivity_tables, stability_lines, trial_run_lines
    from spectra import open_checkpoint
    from spectra.checkpoint.folder import files_of
    from trainer.probing import measure
    from trainer.quiet import quiet_libraries

    require_apart({"output": output}, [*files, *files_of(model)])
    checkpoint = open_checkpoint(model)
    quiet_libraries()
    report = measure(checkpoint, files, settings, device=device, stage=progress_bar)
    report.save(output)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        show(*sensitivity_tables(report), stability_lines(report), *trial_run_lines(report), f"wrote {output}")


@click.command(cls=SettingsCommand, settings=TrainSettings)
@click.argument("plan", type=PATH)
@click.option(
    "--config", type=PATH, is_eager=True, expose_value=False, callback=from_yaml, help="YAML file of the options below."
)
@click.option("--model", **MODEL)  # type: ignore[arg-type]
@click.option(
    "--data", type=PATH, multiple=True, required=True,
    help=f"Dataset file; repeat for a mixture of tasks. Its columns are one of: {formats_help()}.",
)  # fmt: skip
@click.option(
    "--weights", callback=numbers, help="How often each file is drawn from, such as 2,1.  [default: all, once an epoch]"
)
@click.option(
    "--eval-data", "evaluation", type=PATH, help="Held-out file scored during the run; the best adapters are kept in folder best."
)
@click.option("-o", "--output", type=PATH, default=Path("run"), show_default=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue from the newest checkpoint of an interrupted run.")
@json_option
def train(
    plan: Path,
    model: str,
    data: tuple[Path, ...],
    weights: list[float] | None,
    evaluation: Path | None,
    output: Path,
    resume: bool,
    as_json: bool,
    settings: TrainSettings,
) -> None:
    """Build the LoRA experts that PLAN describes and fine-tune them.

    Example: plan train plan.json --model all-MiniLM-L6-v2 --data train.jsonl -o run
    """
    from planner import Plan
    from spectra.core.distributed import is_main_process
    from trainer import train as run
    from trainer.quiet import quiet_libraries
    from trainer.views.tables import run_summary

    loaded = Plan.load(plan)
    quiet_libraries()
    with progress_bar("training") as progress:
        report = run(
            loaded, model, data, output, settings, weights=weights, evaluation=evaluation, resume=resume, progress=progress
        )
    if not is_main_process():
        return
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        show(run_summary(report), f"wrote {output}")


@click.command()
@click.argument("run", type=PATH)
@click.option(
    "--data", type=PATH, multiple=True, required=True,
    help="Held-out file; repeat for several tasks. One of prompt, choices and answer is multiple choice.",
)  # fmt: skip
@click.option("--model", "base", **MOVED)  # type: ignore[arg-type]
@click.option(
    "--generate", type=click.IntRange(0), default=0, show_default=True,
    help="Tokens to generate for every prompt, to count exact matches.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(get_args(Precision)), default="auto", show_default=True,
    help="Precision of the base's weights; auto is the one that RUN was trained in.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, help="Result to write.  [default: evaluation.json in RUN]")
@json_option
def evaluate(
    run: Path,
    data: tuple[Path, ...],
    base: str | None,
    generate: int,
    precision: Precision,
    output: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a run on held-out data, beside the untrained model and the majority class.

    Example: plan evaluate run --data test.jsonl
    """
    from spectra.checkpoint.folder import files_of
    from trainer import evaluate as measure
    from trainer.quiet import quiet_libraries
    from trainer.views.tables import evaluation_tables

    require_apart(
        {"output": output or run / EVALUATION}, [*data, *(run / name for name in OWN), *(files_of(base) if base else [])]
    )
    quiet_libraries()
    with progress_bar("evaluating") as progress:
        result = measure(run, data, base=base, generate=generate, precision=precision, progress=progress)
    result.save(output or run / EVALUATION)
    if as_json:
        click.echo(result.to_json(), nl=False)
    else:
        show(*evaluation_tables(result))


@click.command()
@click.argument("run", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the merged model.")
@click.option("--model", "base", **MOVED)  # type: ignore[arg-type]
def merge(run: Path, output: Path, base: str | None) -> None:
    """Fold the adapters of RUN into its base model and write an ordinary checkpoint.

    Only plans without routers can be merged.

    Example: plan merge run -o merged
    """
    from trainer import merge as fold
    from trainer.quiet import quiet_libraries

    quiet_libraries()
    show(f"wrote {fold(run, output, base=base)}; logits are those of the run")


# Seeds and processes are the study's own, and no file is scored during its runs.
@click.command(cls=SettingsCommand, settings=TrainSettings, without=("seed", "evaluations", "patience", "shard"))
@click.argument("plans", type=PATH, nargs=-1)
@click.option("--model", **MODEL)  # type: ignore[arg-type]
@click.option("--data", type=PATH, multiple=True, required=True, help="Training file; repeat for a mixture of tasks.")
@click.option(
    "--test",
    "tests",
    type=PATH,
    multiple=True,
    required=True,
    help="Held-out file, which keeps its own measure; repeat for several.",
)
@click.option("-o", "--output", type=PATH, default=Path("study"), show_default=True, help="Folder of the study.")
@click.option(
    "--arm", "arms", multiple=True, metavar="NAME=PLAN,SETTING=VALUE,...",
    help="A plan whose runs differ in some settings, such as sira=mixture.json,router=sira; repeat for several.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help="Runs per plan.")
@click.option(
    "--binding", type=click.Choice(get_args(Bind)), default="stop", show_default=True,
    help="Ask first if the budget binds, by uniform LoRA of other sizes, and stop if not; or only note it, or skip the question.",
)  # fmt: skip
@click.option(
    "--no-baselines", "baselines", flag_value=False, type=bool, default=True,
    help="Do not add uniform LoRA, a uniform mixture, random plans and the head alone.",
)  # fmt: skip
@click.option(
    "--lr-sweep", "rates", callback=numbers,
    help="Learning rates such as 0.001,0.003, of which each plan gets its best; a single one is for all.  [default: steps of 2]",
)  # fmt: skip
@click.option("--processes", type=click.IntRange(1), help="Runs at a time.  [default: one per core, or per GPU]")
@json_option
def compare(
    plans: tuple[Path, ...],
    model: str,
    data: tuple[Path, ...],
    tests: tuple[Path, ...],
    output: Path,
    arms: tuple[str, ...],
    seeds: int,
    binding: Bind,
    baselines: bool,
    rates: list[float] | None,
    processes: int | None,
    as_json: bool,
    settings: TrainSettings,
) -> None:
    """Find out whether PLANS pay: does the budget bind, and which plan is better at equal size.

    Every plan is trained with the same seeds at a learning rate of its own, beside the baselines.
    An interrupted study continues when the same command is given again; finished runs serve other questions too.

    Example: plan compare a.json b.json --model MODEL --data train.jsonl --test test.jsonl
    """
    from trainer import compare as run
    from trainer.quiet import quiet_libraries
    from trainer.study.report import STUDY
    from trainer.study.verdict import verdict
    from trainer.views.tables import study_tables

    quiet_libraries()
    with progress_bar("study") as progress:
        report = run(
            plans, model, data, tests, output, settings,
            arms=arms, seeds=seeds, baselines=baselines, rates=rates, binding=binding, processes=processes or 0,
            progress=progress,
        )  # fmt: skip
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        show(
            *study_tables(report), verdict(report), f"wrote {output / STUDY}, and the tables as CSV, Markdown and LaTeX beside it"
        )


@click.command("show")
@click.argument("document", type=PATH)
@click.argument("other", type=PATH, required=False)
@json_option
def show_(document: Path, other: Path | None, as_json: bool) -> None:
    """Print DOCUMENT: a plan, a report, a run's folder or a study. With OTHER, print where two plans differ.

    Example: plan show plan.json
    """
    from planner import Plan
    from planner.views.tables import difference_table
    from trainer.views.documents import DOCUMENTS, find_document

    if other is not None and as_json:
        raise click.UsageError("--json prints one document; give one")
    if other is not None:
        show(difference_table(Plan.load(document), Plan.load(other)))
        return
    kind, path = find_document(document)
    view = DOCUMENTS[kind]
    if as_json:
        click.echo(view.load(path).to_json(), nl=False)
    else:
        show(*view.tables(path), *view.text(path))


@click.command()
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, default=Path("plots"), show_default=True, help="Folder for the figures.")
def plot(files: tuple[Path, ...], output: Path) -> None:
    """Draw reports, plans, runs and studies (FILES, in any mix) as PNG and SVG.

    Example: plan plot spectra.json plan.json run -o plots
    """
    from trainer.views.documents import draw

    for path in draw(files, output):
        click.echo(path)


@click.command()
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, default=Path("report.html"), show_default=True, help="Page to write.")
def report(sources: tuple[Path, ...], output: Path) -> None:
    """Write up studies, runs, plans and reports (SOURCES, in any mix) as one self-contained HTML page.

    Example: plan report study -o report.html
    """
    from trainer.views.html import page

    require_apart({"output": output}, [source for source in sources if source.is_file()])
    write_atomic(output, page(sources))
    show(f"wrote {output}")
