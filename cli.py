"""The `plan` command: parse, call one function, show the result.

Every import beyond click and the settings' table happens inside the command that needs it, so `plan --help`, `plan show` and
`plan check` start without torch or transformers.
"""

import logging
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from planner.settings import AllocationSettings
from spectra import InputError
from spectra.core.documents import Value
from spectra.core.files import require_writable, write_atomic
from spectra.settings import AnalysisSettings
from trainer import TrainSettings

if TYPE_CHECKING:
    from trainer import Evaluation
    from trainer.report import Score

PATH = click.Path(path_type=Path)


class _Cli(click.Group):
    """Turns what a user can cause into one line: exit code 1 for bad input, 130 for Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(" ".join(str(error).split())) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from None
        except KeyboardInterrupt:
            click.echo(
                "Interrupted; nothing half-written is left. To go on: analyze with the same command, train with --resume.",
                err=True,
            )
            ctx.exit(130)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="loraplan")
def main() -> None:
    """Decide how many LoRA experts, of what ranks, each layer of a model should get; train exactly that; see whether it paid."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # where installed, it announces optional kernels on import


def _show(*parts: RenderableType) -> None:
    console = Console(width=None if sys.stdout.isatty() else 132, highlight=False)
    for part in parts:
        console.print(part)


@contextmanager
def _bar(description: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error that appears with the first update(done, total, note)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(description, total=None, note="")

    def update(done: int, total: int | None = None, note: str = "") -> None:
        progress.start()  # not before: input that is refused at once should not leave an empty bar
        progress.update(task, completed=done, total=total, note=note)

    try:
        yield update
    finally:
        if progress.live.is_started:
            progress.stop()


def _json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of tables.")(command)


def _options_of(settings: type[Value], *, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """One option per setting; name, default and help come from the settings' own fields."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(settings.model_fields.items()):
            if name in without:
                continue
            option: dict[str, Any] = {"help": field.description}
            if field.annotation is bool:
                option["is_flag"] = True
            else:
                option |= {"default": field.default, "show_default": field.default is not None, "type": _type(field.annotation)}
            command = click.option("--" + name.replace("_", "-"), **option)(command)
        return command

    return decorate


def _type(annotation: Any) -> Any:
    """What click should parse: of an optional value the value, of a literal the choices."""
    if get_origin(annotation) in (Union, UnionType):
        return _type(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    return click.Choice(get_args(annotation)) if get_origin(annotation) is Literal else annotation


@main.command()
@click.argument("model")
@click.option("-o", "--output", type=PATH, default=Path("spectra.json"), show_default=True, help="Where the report goes.")
@click.option("--csv", type=PATH, help="Also write the sites as a table, one row per matrix.")
@click.option("--keep-eigenvalues", type=PATH, help="Safetensors file of all eigenvalues; if it is there, nothing is decomposed.")
@click.option("--device", default="cpu", show_default=True, help="Where to decompose: cpu or cuda.")
@_json_option
@_options_of(AnalysisSettings)
def analyze(
    model: str, output: Path, csv: Path | None, keep_eigenvalues: Path | None, device: str, as_json: bool, **settings: Any
) -> None:
    """Fit the spectral density of every weight matrix of MODEL, a folder or a hub id.

    An interrupted analysis goes on where it stopped when the same command is given again.
    """
    from spectra import analyze as run
    from spectra.core.distributed import is_main_process
    from spectra.storage.csv_table import to_csv
    from spectra.storage.journal import remove
    from spectra.views import tables as show

    chosen = AnalysisSettings.checked(settings, "analysis settings")
    for path in filter(None, (output, csv, keep_eigenvalues)):
        require_writable(path)
    journal = output.with_name(f".{output.name}.journal")
    with _bar("spectra") as update:
        report = run(model, chosen, journal=journal, eigenvalues=keep_eigenvalues, device=device, progress=update)
    if not is_main_process():  # under torchrun one process writes and prints for all
        return
    report.save(output)
    if csv:
        to_csv(report, csv)
    remove(journal)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        _show(*show.overview(report), f"wrote {output}")


@main.command()
@click.argument("model")
@click.option("--data", "files", type=PATH, multiple=True, required=True, help="Dataset file; repeat for several tasks.")
@click.option("-o", "--output", type=PATH, default=Path("sensitivity.json"), show_default=True, help="Where the report goes.")
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Examples per task.")
@click.option("--max-length", type=click.IntRange(2), default=128, show_default=True, help="Tokens per text.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the draw of examples and of a new head."
)
@click.option("--device", default="cpu", show_default=True, help="Where to run the model: cpu or cuda.")
@click.option(
    "--gradient-checkpointing", is_flag=True, help="Recompute activations instead of keeping them: slower, less memory."
)
@click.option(
    "--rehearse", type=click.IntRange(0),
    help="Steps of a short training run that tells which modules' adapters bring the gain; 0 leaves it out."
    "  [default: 30 for a language model, 0 to classify]",
)  # fmt: skip
@click.option("--learning-rate", default=1e-3, show_default=True, help="Of the rehearsal; best the one you will train with.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Of the rehearsal.")
@_json_option
def probe(
    model: str, files: tuple[Path, ...], output: Path, samples: int, max_length: int, seed: int, device: str,
    gradient_checkpointing: bool, run_trial: int | None, learning_rate: float, batch_size: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure how strongly sampled examples pull on every linear module of MODEL, and what learning there brings."""
    from trainer.attribution.trial_run import STEPS
    from trainer.attribution.trial_run import run_trial as with_trial_run

    from planner import SensitivityReport, join
    from planner import probe as run
    from planner.views import tables as show
    from spectra import open_checkpoint
    from trainer import TrainSettings, load_sample

    require_writable(output)
    checkpoint = open_checkpoint(model)
    how = {"learning_rate": learning_rate, "batch_size": batch_size, "max_length": max_length, "seed": seed}
    settings = TrainSettings.checked(how | {"gradient_checkpointing": gradient_checkpointing}, "rehearsal")

    def measure(file: Path) -> SensitivityReport:
        sample = load_sample(checkpoint, file, samples=samples, max_length=max_length, seed=seed, device=device)
        with _bar(f"gradients of {file.stem}") as update:
            advance = partial(update, total=sample.examples)
            measured = partial(run, sample.model, sample.batches, checkpoint=checkpoint, task=file.stem, progress=advance)
            report = measured(gradient_checkpointing=gradient_checkpointing)
        steps = STEPS[sample.kind] if run_trial is None else run_trial
        if not steps:
            return report
        short = settings.model_copy(update={"max_steps": steps})
        with _bar(f"rehearsal of {file.stem}") as update:
            return report.with_trial_run(*with_trial_run(checkpoint, file, short, device=device, progress=update))

    report = join([measure(file) for file in files])
    report.save(output)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        _show(*show.sensitivity_tables(report), show.stability_lines(report), *show.trial_run_lines(report), f"wrote {output}")


@main.command()
@click.option(
    "--spectra", type=PATH, help="Report of plan analyze, or a CSV of alphas (name, rows, cols, alpha; or weightwatcher's table)."
)
@click.option("--sensitivity", type=PATH, multiple=True, help="Report of plan probe; repeat for several tasks.")
@click.option("--model", help="Take module names and shapes from this model's checkpoint.")
@click.option(
    "--budget",
    required=True,
    help="Trainable parameters (2000000, 2M), a share of the model (1%), a rank at every site (rank 8), the least"
    " that the strategy values as much (worth rank 8), experts (160 experts), or the path of a plan whose size is meant.",
)
@click.option(
    "--strategy", default="combined", show_default=True,
    help="uniform, random, mola, alphalora, lora-smoe, sensitivity, dr-lora, hot-experts or combined.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, default=Path("plan.json"), show_default=True, help="Where the plan goes.")
@_json_option
@_options_of(AllocationSettings)
def allocate(
    spectra: Path | None, sensitivity: tuple[Path, ...], model: str | None, budget: str, strategy: str, output: Path,
    as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Share a budget among the modules of a model: how many LoRA experts each gets, and of what ranks."""
    import planner
    from spectra import load_spectra, open_checkpoint

    require_writable(output)
    plan = planner.allocate(
        budget=budget,
        strategy=strategy,
        spectra=load_spectra(spectra) if spectra else None,
        sensitivity=planner.join([planner.SensitivityReport.load(path) for path in sensitivity]) if sensitivity else None,
        model=open_checkpoint(model) if model else None,
        **settings,
    )
    plan.save(output)
    _show_plan(plan, as_json)
    if not as_json:
        _show(f"wrote {output}")


def _show_plan(plan: Any, as_json: bool) -> None:
    from planner.views import tables as show

    if as_json:
        click.echo(plan.to_json(), nl=False)
    else:
        _show(show.plan_table(plan), show.plan_summary(plan))


@main.command("show")
@click.argument("plan", type=PATH)
@click.argument("other", type=PATH, required=False)
@_json_option
def show_(plan: Path, other: Path | None, as_json: bool) -> None:
    """Print a plan: what each module gets, and why. With OTHER, print where the two plans differ."""
    from planner import Plan
    from planner.views import tables as show

    if other is None:
        _show_plan(Plan.load(plan), as_json)
    elif as_json:
        raise click.UsageError("--json prints one plan; give one")
    else:
        _show(show.difference_table(Plan.load(plan), Plan.load(other)))


@main.command()
@click.argument("plan", type=PATH)
@click.option(
    "--format", "form", required=True,
    help="peft (a LoraConfig as adapter_config.json, each site with its total rank), csv, markdown or yaml.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, help="File to write.  [default: standard output]")
def export(plan: Path, form: str, output: Path | None) -> None:
    """Write PLAN in the words of other tools."""
    from planner import Plan
    from planner import export as convert

    text = convert(Plan.load(plan), form)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomic(output, text)
        _show(f"wrote {output}")


@main.command()
@click.argument("plan", type=PATH)
@click.argument("model")
def check(plan: Path, model: str) -> None:
    """Say whether PLAN can be trained on MODEL, listing every mismatch at once."""
    from planner import Plan, mismatches
    from spectra import open_checkpoint

    loaded = Plan.load(plan)
    faults = mismatches(loaded, open_checkpoint(model))
    for fault in faults:
        click.echo(f"{plan}: {fault}", err=True)
    if faults:
        raise InputError(f"{plan} does not fit {model}: {len(faults)} mismatch{'es' * (len(faults) > 1)}")
    click.echo(f"{plan} fits {model}: {len(loaded.sites)} sites, {loaded.parameters:,} trainable parameters")


def _from_file(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Options from a YAML file; what stands on the command line wins."""
    if path is None:
        return
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a mapping of options to values")
    names = {parameter.opts[-1].lstrip("-"): str(parameter.name) for parameter in ctx.command.params}
    values = {str(name).replace("_", "-"): value for name, value in found.items()}
    if odd := sorted(values.keys() - names.keys()):
        raise InputError(f"{path}: unknown option {odd[0]!r}; plan train --help lists them")
    ctx.default_map = {names[name]: value for name, value in values.items()}


def _numbers(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in str(text).split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 2,1") from None


@main.command()
@click.argument("plan", type=PATH)
@click.option(
    "--config", type=PATH, is_eager=True, expose_value=False, callback=_from_file, help="YAML file of the options below."
)
@click.option("--model", required=True, help="The base model, a folder or a hub id.")
@click.option(
    "--data", type=PATH, multiple=True, required=True,
    help="Dataset file: text and label to classify; text, prompt and completion, alpaca, messages or ShareGPT for a language"
    " model. Repeat for a mixture of tasks.",
)  # fmt: skip
@click.option(
    "--weights", callback=_numbers, help="How often each file is drawn from, such as 2,1.  [default: all, once an epoch]"
)
@click.option(
    "--eval-data", type=PATH, help="Held-out file scored during the run; the best adapters are kept in the folder best."
)
@click.option("-o", "--output", type=PATH, default=Path("run"), show_default=True, help="The run's folder.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of an interrupted run.")
@_json_option
@_options_of(TrainSettings)
def train(
    plan: Path, model: str, data: tuple[Path, ...], weights: list[float] | None, eval_data: Path | None, output: Path,
    resume: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Build the mixture of LoRA experts that PLAN describes and fine-tune it."""
    from planner import Plan
    from spectra.core.distributed import is_main_process
    from trainer import train as run
    from trainer.views.tables import run_summary

    chosen = TrainSettings.checked(settings, "training settings")
    with _bar("training") as update:
        report = run(
            Plan.load(plan), model, data, output, chosen, weights=weights, evaluation=eval_data, resume=resume,
            progress=lambda step, steps, loss: update(step, steps, "" if math.isnan(loss) else f"loss {loss:.3f}"),
        )  # fmt: skip
    if not is_main_process():
        return
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        _show(run_summary(report), f"wrote {output}")


@main.command()
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, multiple=True, required=True, help="Held-out dataset file; repeat for several tasks.")
@click.option("--model", help="The base model, if it is no longer where the run found it.")
@click.option(
    "--generate", type=click.IntRange(0), default=0, show_default=True,
    help="Generate up to this many tokens for every prompt and count exact matches.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, help="Where the result goes.  [default: evaluation.json in RUN]")
@_json_option
def evaluate(run: Path, data: tuple[Path, ...], model: str | None, generate: int, output: Path | None, as_json: bool) -> None:
    """Evaluate a run on held-out data, beside the untrained head and the majority class."""
    from trainer import EVALUATION
    from trainer import evaluate as measure

    require_writable(output or run / EVALUATION)
    with _bar("evaluating") as update:
        result = measure(run, data, base=model, generate=generate, progress=update)
    result.save(output or run / EVALUATION)
    if as_json:
        click.echo(result.to_json(), nl=False)
    else:
        _show_scores(result)


@main.command()
@click.argument("plans", type=PATH, nargs=-1, required=True)
@click.option("--model", required=True, help="The base model, a folder or a hub id.")
@click.option("--data", type=PATH, multiple=True, required=True, help="Training file; repeat for a mixture of tasks.")
@click.option("--test", "tests", type=PATH, multiple=True, required=True, help="Held-out file; repeat for several tasks.")
@click.option("-o", "--output", type=PATH, default=Path("study"), show_default=True, help="The study's folder.")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help="Runs per plan.")
@click.option("--no-controls", is_flag=True, help="Do not add uniform LoRA, uniform mixture, random and head only.")
@click.option("--lr-sweep", "rates", callback=_numbers, help="Learning rates such as 0.001,0.003; each plan gets its best.")
@click.option("--processes", type=click.IntRange(1), help="Runs at a time.  [default: one per core, or per GPU]")
@_json_option
@_options_of(TrainSettings, without=("seed", "evaluations", "patience"))  # seeds are the study's own, and no file is watched
def compare(
    plans: tuple[Path, ...], model: str, data: tuple[Path, ...], tests: tuple[Path, ...], output: Path, seeds: int,
    no_controls: bool, rates: list[float] | None, processes: int | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train PLANS with paired seeds beside the controls, and say what can be concluded. Run again to go on."""
    from trainer import compare as run
    from trainer.study.report import sentence
    from trainer.views.tables import study_table

    chosen = TrainSettings.checked(settings, "training settings")
    with _bar("study") as update:
        report = run(
            plans, model, data, tests, output, chosen, seeds=seeds, baselines=not no_controls, rates=rates or (),
            processes=processes or 0, progress=update,
        )  # fmt: skip
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        _show(study_table(report), sentence(report), f"wrote {output / 'study.json'}")


@main.command()
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, default=Path("report.html"), show_default=True, help="Page to write.")
def report(sources: tuple[Path, ...], output: Path) -> None:
    """Write up studies, runs, plans and reports as one self-contained page with their figures and tables."""
    from trainer.views.html import page

    require_writable(output)
    write_atomic(output, page(sources))
    _show(f"wrote {output}")


@main.command()
@click.argument("run", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder for the merged model.")
@click.option("--model", help="The base model, if it is no longer where the run found it.")
def merge(run: Path, output: Path, model: str | None) -> None:
    """Fold the adapters of RUN into its base model, where its plan has no router, and write an ordinary checkpoint."""
    from trainer import merge as fold

    _show(f"wrote {fold(run, output, base=model)}; logits are those of the run")


def _show_scores(result: "Evaluation", more: "Mapping[str, Score] | None" = None) -> None:
    from trainer.views.tables import score_table

    rows = {"fine-tuned": result.trained, **(more or {}), "untrained": result.untrained, "majority class": result.majority}
    _show(score_table(rows, result.examples))
    if len(result.tasks) > 1:
        for task in result.tasks:
            scores = {"fine-tuned": task.trained, "untrained": task.untrained, "majority class": task.majority}
            _show(score_table(scores, task.examples, task.name))


@main.command()
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, default=Path("plots"), show_default=True, help="Folder for the figures.")
def plot(files: tuple[Path, ...], output: Path) -> None:
    """Draw reports, plans and runs (FILES, in any mix) as PNG and SVG."""
    from trainer.views.plots import draw

    for path in draw(files, output):
        click.echo(path)


@main.command()
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True, help="Folder for everything the demo makes.")
def demo(output: Path) -> None:
    """Run the whole path in a few minutes, on a real pretrained MiniLM and the docstrings of Python's standard library."""
    from planner import Plan
    from trainer.demo import BUDGET, EXPERTS, LENGTH, TRAINING, link_model, write_corpus

    model = str(link_model(output))
    train_file, test_file = map(str, write_corpus(output))
    spectra, sensitivity, plan, control, run, head_only, plots = (
        str(output / name)
        for name in ("spectra.json", "sensitivity.json", "plan.json", "head-only.json", "run", "head-only", "plots")
    )
    for folder in (run, head_only):  # the demo starts over; nothing else writes these two
        shutil.rmtree(folder, ignore_errors=True)
    _step("analyze", model, "-o", spectra)
    _step("probe", model, "--data", train_file, "--max-length", LENGTH, "-o", sensitivity)
    reports = ("--spectra", spectra, "--sensitivity", sensitivity)
    _step("allocate", *reports, "--budget", BUDGET, "--max-experts", EXPERTS, "-o", plan)
    _step("train", plan, "--model", model, "--data", train_file, *TRAINING, "-o", run)
    _step("evaluate", run, "--data", test_file)
    click.secho("\nThe control: the same head on frozen features, trained in the same way.", bold=True)
    Plan.load(plan).without_adapters().save(control)
    _step("train", control, "--model", model, "--data", train_file, *TRAINING, "-o", head_only)
    _step("evaluate", head_only, "--data", test_file)
    _step("plot", spectra, plan, run, "-o", plots)
    _summary(output)


def _step(*arguments: str) -> None:
    """Run one command as a user would type it."""
    click.secho("\n$ plan " + shlex.join(arguments), bold=True)
    main.main(list(arguments), standalone_mode=False)


def _summary(output: Path) -> None:
    from planner import Plan
    from planner.views import tables as show
    from trainer import EVALUATION, Evaluation

    result, control = (Evaluation.load(output / name / EVALUATION) for name in ("run", "head-only"))
    _show("\nPlanned", show.plan_summary(Plan.load(output / "plan.json")), "\nReached, on modules of the library it never saw")
    _show_scores(result, {"same head, frozen features": control.trained})
    _show(f"\nEverything is in {output}/: spectra.json, sensitivity.json, plan.json, run/ (adapters), plots/ (PNG and SVG)")


if __name__ == "__main__":
    main()
