"""Plans and sensitivity reports for people."""

import math

from rich import box
from rich.table import Table

from planner.plan import Plan, PlannedSite
from planner.reports import SensitivityReport
from spectra.sites import place, short

BAR = 10  # characters for the largest site


def plan_table(plan: Plan) -> Table:
    """One row per site: its ranks, what they cost, a bar, and the evidence behind them. Fits a terminal of 80 columns."""
    title = f"plan for {plan.model.name}: {plan.strategy}, budget {plan.budget.request}"
    caption = "3 x 2: three experts of rank 2; g2/mean: squared gradient per parameter, mean site = 1"
    look = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    table = Table(title=title, caption=caption, **look)  # type: ignore[arg-type]  # each key has its own type
    for heading in ("layer", "site"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ranks", "params"):
        table.add_column(heading, justify="right")
    table.add_column("total rank", no_wrap=True)
    for heading in ("weight", "alpha", "g2/mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    largest = max(sum(site.ranks) for site in plan.sites) or 1
    mean = sum(site.sensitivity for site in plan.sites) / len(plan.sites) or math.nan
    several = len({where.stack for site in plan.sites if (where := place(site.name))}) > 1
    for site in plan.sites:
        table.add_row(*_where(site.name, several), *_row(site, largest, mean))
    return table


def _where(name: str, several: bool) -> tuple[str, str]:
    """Layer, with its stack where there are several, and projection; a site outside any layer by its full name."""
    where = place(name)
    if where is None:
        return "", name
    return f"{where.stack} {where.layer}" if several else str(where.layer), short(where.projection)


def _row(site: PlannedSite, largest: int, mean: float) -> tuple[str, ...]:
    total = sum(site.ranks)
    bar = "█" * max(min(1, total), round(BAR * total / largest))
    evidence = (number(site.alpha, ".2f"), number(site.sensitivity / mean, ".2f"))
    return (ranks(site.ranks), f"{site.parameters:,}", f"{bar} {total}", f"{site.weight:.2f}", *evidence)


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
    experts = [len(site.ranks) for site in plan.sites]
    routed = sum(count > 1 for count in experts)
    top_k = max((site.top_k for site in plan.sites), default=0)
    lines = [
        f"{sum(count > 0 for count in experts)} of {len(experts)} sites adapted, {routed} of them as mixtures;"
        f" {sum(experts)} LoRA experts of rank {_span(plan)}, at most {top_k} per token",
        f"{plan.parameters:,} trainable parameters, routers included"
        f" ({100 * plan.parameters / plan.model.parameters:.2f}% of {plan.model.parameters:,})",
        f"budget: {plan.budget.spent:,} of {plan.budget.cap:,} {plan.budget.unit} spent",
    ]
    if plan.optimum is not None:
        lines.append(f"within {100 * plan.optimum.gap:.3f}% of the best possible value of its objective")
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def _span(plan: Plan) -> str:
    every = sorted({rank for site in plan.sites for rank in site.ranks})
    return "0" if not every else str(every[0]) if len(every) == 1 else f"{every[0]} to {every[-1]}"


def sensitivity_table(report: SensitivityReport) -> Table:
    """The squared gradient of every site, per parameter, averaged over tasks and relative to the mean site."""
    title = "sensitivity: squared gradient per parameter, mean site = 1"
    table = Table("layer", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    stacks = {where.stack for site in report.sites if (where := place(site.name))}
    rows: dict[str, dict[str, float]] = {}
    for site in report.sites:
        layer, projection = _where(site.name, len(stacks) > 1)
        rows.setdefault(layer, {})[projection] = sum(site.per_parameter) / len(site.per_parameter)
    columns = list(dict.fromkeys(projection for row in rows.values() for projection in row))
    mean = sum(value for row in rows.values() for value in row.values()) / len(report.sites) or math.nan
    for projection in columns:
        table.add_column(projection, justify="right", overflow="fold")
    for layer, row in rows.items():
        table.add_row(layer, *(number(row[name] / mean, ".3g") if name in row else "" for name in columns))
    return table
