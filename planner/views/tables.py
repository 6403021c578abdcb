"""Plans and sensitivity reports for people."""

import math
from collections.abc import Callable, Mapping

from rich import box
from rich.table import Table

from planner.plan import Plan, PlannedSite
from planner.sensitivity.report import SensitivityReport, SiteSensitivity
from spectra import InputError
from spectra.checkpoint.names import Place, expert_index, place, projection_type, resolve, short

BAR = 10  # characters for the largest site
FOLDED = 60  # a plan with more routed experts than this shows one line per projection and layer instead of one per expert
LOOK = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}


def plan_table(plan: Plan) -> Table:
    """One row per site: its ranks, what they cost, a bar, and the evidence behind them. Fits a terminal of 80 columns."""
    title = f"plan for {plan.model.name}: {plan.strategy}, budget {plan.budget.request}"
    caption = "3 x 2: three experts of rank 2; " if any(len(site.ranks) > 1 for site in plan.sites) else ""
    caption += f"g/mean: {plan.settings.statistic} per parameter, mean site = 1"
    gained = math.fsum(site.benefit for site in plan.sites)
    rehearsed = not math.isnan(gained)
    caption += "; gain: its share of what a rehearsal gained" if rehearsed else ""
    table = Table(title=title, caption=caption, **LOOK)  # type: ignore[arg-type]  # each key has its own type
    for heading in ("layer", "site"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ranks", "params"):
        table.add_column(heading, justify="right")
    table.add_column("total rank", no_wrap=True)
    routed = any(not math.isnan(site.routing) for site in plan.sites)
    for heading in ("weight", "alpha", "g/mean", *(["tokens"] if routed else []), *(["gain"] if rehearsed else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = _folded(plan) if sum(expert_index(site.name) is not None for site in plan.sites) > FOLDED else plan.sites
    largest = max(sum(site.ranks) for site in plan.sites) or 1
    mean = sum(site.sensitivity for site in plan.sites) / len(plan.sites) or math.nan
    several = _several_stacks([site.name for site in plan.sites])
    for site in rows:
        known = [_share(site.routing)] * routed + [f"{site.benefit / gained:.1%}"] * rehearsed
        table.add_row(*_where(site.name, several), *_row(site, largest, mean), *known)
    return table


def _several_stacks(names: list[str]) -> bool:
    return len({where.stack for name in names if (where := place(name))}) > 1


def _folded(plan: Plan) -> list[PlannedSite]:
    """Of the routed experts of one layer and projection only the one that got most, named `experts.*`."""
    rows: dict[tuple[str, int, str], PlannedSite] = {}
    for site in plan.sites:
        where = place(site.name) or Place(stack="", layer=0, projection=site.name)
        key = (where.stack, where.layer, projection_type(site.name))
        if key not in rows or sum(site.ranks) > sum(rows[key].ranks):
            rows[key] = site
    return list(rows.values())


def _where(name: str, several: bool) -> tuple[str, str]:
    """Layer, with its stack where there are several, and projection; a site outside any layer by its full name."""
    where = place(name)
    if where is None:
        return "", name
    return f"{where.stack} {where.layer}" if several else str(where.layer), short(where.projection)


def _row(site: PlannedSite, largest: int, mean: float) -> tuple[str, ...]:
    total = sum(site.ranks)
    evidence = (number(site.alpha, ".2f"), number(site.sensitivity / mean, ".2f"))
    return (ranks(site.ranks), f"{site.parameters:,}", f"{_bar(total, largest)} {total}", f"{site.weight:.2f}", *evidence)


def _bar(total: int, largest: int) -> str:
    return "█" * max(min(1, total), round(BAR * total / largest))


def _share(frequency: float) -> str:
    return "" if math.isnan(frequency) else f"{frequency:.0%}"


def ranks(given: tuple[int, ...]) -> str:
    """Ranks as people read them: `3,3,2`, equal ones as `4 x 2`, none as a dash."""
    if not given:
        return "-"
    return f"{len(given)} x {given[0]}" if len(given) > 1 and len(set(given)) == 1 else ",".join(map(str, given))


def number(value: float, form: str) -> str:
    """A number, or nothing where it is unknown."""
    return "" if math.isnan(value) else format(value, form)


def plan_summary(plan: Plan) -> str:
    """One paragraph: what is adapted, what it costs, how close to the optimum."""
    mixtures = sum(len(site.ranks) > 1 for site in plan.sites)
    lines = [
        f"{sum(bool(site.ranks) for site in plan.sites)} of {len(plan.sites)} sites adapted{_experts(plan, mixtures)}",
        f"{plan.parameters:,} trainable parameters{', routers included' if mixtures else ''}"
        f" ({100 * plan.parameters / plan.model.parameters:.2f}% of {plan.model.parameters:,})",
        f"budget: {plan.budget.spent:,} of {plan.budget.cap:,} {plan.budget.unit} spent",
    ]
    if plan.optimum is not None:
        lines.append(f"within {100 * plan.optimum.gap:.3f}% of the best possible value of its objective")
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def _experts(plan: Plan, mixtures: int) -> str:
    if not any(site.ranks for site in plan.sites):
        return ""
    if not mixtures:
        return f", one LoRA of rank {_span(plan)} each"
    count, top_k = sum(len(site.ranks) for site in plan.sites), max(site.top_k for site in plan.sites)
    return f", {mixtures} of them as mixtures; {count} LoRA experts of rank {_span(plan)}, at most {top_k} per token"


def _span(plan: Plan) -> str:
    every = sorted({rank for site in plan.sites for rank in site.ranks})
    return str(every[0]) if len(every) == 1 else f"{every[0]} to {every[-1]}"


def difference_table(plan: Plan, other: Plan) -> Table:
    """Where two plans of one model differ: the ranks of both at every such site, and the difference in total rank.

    Raises:
        InputError: the plans have no site in common.
    """
    theirs = {site.name: site for site in other.sites}
    names = resolve((site.name for site in plan.sites), list(theirs))
    if not names:
        raise InputError(f"a plan for {plan.model.name} and one for {other.model.name} have no site in common")
    differing = any(site.name not in names or site.ranks != theirs[names[site.name]].ranks for site in plan.sites)
    title = _difference_title(plan, other) if differing else "the two plans give every site the same"
    table = Table(title=title, **LOOK)  # type: ignore[arg-type]  # each key has its own type
    for heading in ("layer", "site"):
        table.add_column(heading, no_wrap=True)
    for heading in (plan.strategy, other.strategy, "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    several = _several_stacks(list(names))
    for site in plan.sites:
        mine, yours = site.ranks, theirs[names[site.name]].ranks if site.name in names else ()
        if mine != yours:
            table.add_row(*_where(site.name, several), ranks(mine), ranks(yours), f"{sum(yours) - sum(mine):+d}")
    return table


def _difference_title(plan: Plan, other: Plan) -> str:
    gap = other.parameters - plan.parameters
    sizes = "equal size" if gap == 0 else f"{plan.parameters:,} and {other.parameters:,} parameters ({gap:+,})"
    theirs = {site.name: sum(site.ranks) for site in other.sites}
    shared = [(sum(site.ranks), theirs[site.name]) for site in plan.sites if site.name in theirs]
    total = max(1, sum(mine for mine, _ in shared))
    moved = sum(max(0, mine - yours) for mine, yours in shared)
    return f"{plan.strategy} -> {other.strategy}: {sizes}; {100 * moved / total:.0f}% of the rank sits elsewhere"


def sensitivity_tables(report: SensitivityReport) -> list[Table]:
    """The squared gradient of every site, per parameter, and what its adapter gained in rehearsals; means over tasks."""
    found = [_site_table(report, "sensitivity: squared gradient per parameter, mean site = 1", _gradient)]
    if report.sites[0].benefit:
        found.append(_site_table(report, "rehearsal: gain per parameter of an adapter, mean site = 1", _benefit))
    return found


def _site_table(report: SensitivityReport, title: str, value: Callable[[SiteSensitivity], float]) -> Table:
    table = Table("layer", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    cells: dict[str, dict[str, list[float]]] = {}
    several = _several_stacks([site.name for site in report.sites])
    for site in report.sites:
        layer, _ = _where(site.name, several)
        cells.setdefault(layer, {}).setdefault(short(projection_type(site.name)), []).append(value(site))
    mean = sum(map(value, report.sites)) / len(report.sites) or math.nan
    columns = list(dict.fromkeys(projection for row in cells.values() for projection in row))
    for projection in columns:
        table.add_column(projection, justify="right", overflow="fold")
    for layer, row in cells.items():
        table.add_row(layer, *(_cell(row, name, mean) for name in columns))
    return table


def _gradient(site: SiteSensitivity) -> float:
    tasks = site.per_parameter()
    return sum(task.mean for task in tasks) / len(tasks)


def _benefit(site: SiteSensitivity) -> float:
    return sum(task.mean for task in site.benefit) / len(site.benefit) / sum(site.shape)


def _cell(row: Mapping[str, list[float]], projection: str, mean: float) -> str:
    return number(sum(row[projection]) / len(row[projection]) / mean, ".3g") if projection in row else ""


def rehearsal_lines(report: SensitivityReport) -> list[str]:
    """One line per task: what a rehearsal gained, and whether that can be told from noise; or that there was none."""
    lines = []
    for task in report.tasks:
        if (run := task.rehearsal) is not None:
            known = (
                "" if run.gain.mean > 2 * run.gain.error else ", no more than noise: more steps or a higher rate may tell more"
            )
            lines.append(
                f"{task.name}: a rehearsal of {run.steps} steps took {run.gain.mean:.3f} +- {run.gain.error:.3f} nats off"
                f" the loss of {run.examples} held-out examples{known}"
            )
        else:
            lines.append(f"{task.name}: no rehearsal, so no learning rate and batch size were used; --rehearse 30 makes one")
    return lines


def stability_lines(report: SensitivityReport) -> str:
    """One line per task: how well disjoint samples agree, and from how many examples on."""
    lines = []
    for task in report.tasks:
        if not task.stability:
            lines.append(f"{task.name}: {task.examples} examples; 8 or more would tell how stable the ranking is")
            continue
        last = task.stability[-1]
        settled = f"settles at {task.settles_at}" if task.settles_at else "has not settled"
        lines.append(
            f"{task.name}: {task.examples} examples; two samples of {last.examples} rank the sites alike to"
            f" {last.rank_correlation:.2f} (1 = the same, 0 = chance), top halves to {last.overlap:.2f}; the ranking {settled}"
        )
    return "\n".join(lines)
