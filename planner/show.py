"""Plans and sensitivity reports for people."""

import math

from rich import box
from rich.table import Table

from planner.plan import Plan, PlannedSite
from planner.reports import SensitivityReport
from spectra.sites import place, short

BAR = 16  # characters for the largest site


def plan_table(plan: Plan) -> Table:
    """One row per site: its ranks, what they cost, a bar, and the evidence behind them."""
    title = f"plan for {plan.model.name}: {plan.strategy}, budget {plan.budget.request}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("site", no_wrap=True)
    for heading in ("ranks", "top-k", "parameters"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("total rank", no_wrap=True)
    for heading in ("weight", "alpha", "g2/mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    largest = max(sum(site.ranks) for site in plan.sites) or 1
    mean = sum(site.sensitivity for site in plan.sites) / len(plan.sites)
    for site in plan.sites:
        table.add_row(*_row(site, largest, mean))
    return table


def _row(site: PlannedSite, largest: int, mean: float) -> tuple[str, ...]:
    total = sum(site.ranks)
    bar = "█" * max(min(1, total), round(BAR * total / largest))
    routed = str(site.top_k) if len(site.ranks) > 1 else ""
    return (
        site.name,
        ranks(site.ranks),
        routed,
        f"{site.parameters:,}",
        f"{bar} {total}",
        f"{site.weight:.2f}",
        number(site.alpha, ".2f"),
        number(site.sensitivity / mean, ".2f"),
    )


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
    lines = [
        f"{sum(count > 0 for count in experts)} of {len(experts)} sites adapted, {routed} of them as mixtures;"
        f" {sum(experts)} LoRA experts of rank {_span(plan)}",
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
    table = Table(
        "layer", title="sensitivity: squared gradient per parameter, mean site = 1", title_justify="left", box=box.SIMPLE_HEAD
    )
    rows: dict[int, dict[str, float]] = {}
    for site in report.sites:
        where = place(site.name)
        if where is not None:
            rows.setdefault(where.layer, {})[where.projection] = sum(site.per_parameter) / len(site.per_parameter)
    columns = list(dict.fromkeys(projection for row in rows.values() for projection in row))
    mean = sum(value for row in rows.values() for value in row.values()) / len(report.sites)
    for projection in columns:
        table.add_column(short(projection), justify="right")
    for layer, row in rows.items():
        table.add_row(str(layer), *(f"{row[name] / mean:.3g}" if name in row else "" for name in columns))
    return table
