"""Plans and sensitivity reports for people: tables, and a paragraph that sums a plan up."""

import math
from collections.abc import Callable, Mapping

from rich import box
from rich.table import Table

from planner.plan import Plan, PlannedSite
from planner.sensitivity.report import SensitivityReport, SiteSensitivity, Task, TrialRun
from spectra import InputError
from spectra.checkpoint.names import expert_index, parse_name, projection_type, resolve, short_name
from spectra.views.layer_grid import layer_grid, layer_labels

BAR = 10  # characters for the largest site
FOLDED = 60  # a plan with more routed experts than this shows one line per projection and layer instead of one per expert
TOP_EXPERTS = 8  # that a line names; a layer may have hundreds
PRINTED_NOTES = 2  # a reader skips a longer list; the plan file holds all of them
LOOK = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)}


def plan_table(plan: Plan) -> Table:
    """One row per site: its ranks, what they cost, a bar, and the evidence behind them. Fits a terminal of 80 columns."""
    known = [site.loss_reduction for site in plan.sites if not math.isnan(site.loss_reduction)]
    reduced, tried, routed = (
        math.fsum(known) or math.nan,
        bool(known),
        any(not math.isnan(site.token_share) for site in plan.sites),
    )
    folded = sum(site.routed for site in plan.sites) > FOLDED
    title = f"plan for {plan.model.name}: {plan.strategy}, budget {plan.budget.request}"
    table = Table(title=title, caption=_caption(plan, tried, folded), **LOOK)  # type: ignore[arg-type]  # each key has its own type
    for heading in ("layer", "site"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ranks", "params"):
        table.add_column(heading, justify="right")
    table.add_column("total rank", no_wrap=True)
    for heading in ("weight", "alpha", "g/mean", *["tokens"] * routed, *["trial"] * tried):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = _folded(plan) if folded else [(site, 0) for site in plan.sites]
    largest = max(sum(site.ranks) for site in plan.sites) or 1
    means = _means({site.name: site.sensitivity for site in plan.sites})
    labels = layer_labels(site.name for site in plan.sites)
    for site, more in rows:
        more_known = [_share(site.token_share)] * routed + [number(site.loss_reduction / reduced, ".1%")] * tried
        shown = _projection(site.name) + (f" +{more}" if more else "")
        table.add_row(labels.get(site.name, ""), shown, *_row(site, largest, means[projection_type(site.name)]), *more_known)
    return table


def _means(values: Mapping[str, float]) -> dict[str, float]:
    """Projection type -> mean of its sites' values; NaN where it is 0 or unknown, over which everything prints as nothing."""
    of_type: dict[str, list[float]] = {}
    for name, value in values.items():
        of_type.setdefault(projection_type(name), []).append(value)
    return {kind: sum(found) / len(found) or math.nan for kind, found in of_type.items()}


def _caption(plan: Plan, tried: bool, folded: bool) -> str:
    mixtures = "3 x 2: three experts of rank 2; " if any(len(site.ranks) > 1 for site in plan.sites) else ""
    trial = "; trial: share of the trial run's loss reduction" if tried else ""
    more = "; +7: seven more experts, none with more rank" if folded else ""
    return f"{mixtures}g/mean: {plan.settings.statistic} per parameter, mean of the projection's sites = 1{trial}{more}"


def _folded(plan: Plan) -> list[tuple[PlannedSite, int]]:
    """All rows, but of a layer's routed experts of one projection only the one that got most, and how many more there are."""
    rows: dict[object, tuple[PlannedSite, int]] = {}
    for site in plan.sites:
        where = parse_name(site.name)
        key = (where.stack, where.layer, projection_type(site.name)) if where else site.name
        first, others = rows.get(key, (site, -1))
        rows[key] = (site if sum(site.ranks) > sum(first.ranks) else first), others + 1
    return list(rows.values())


def _projection(name: str) -> str:
    """A site's projection; its full name outside any layer."""
    where = parse_name(name)
    return short_name(where.projection) if where else name


def _row(site: PlannedSite, largest: int, mean: float) -> tuple[str, ...]:
    total = sum(site.ranks)
    evidence = (number(site.alpha, ".2f"), number(site.sensitivity / mean, ".2f"))
    return (format_ranks(site.ranks), f"{site.parameters:,}", f"{_bar(total, largest)} {total}", f"{site.weight:.2f}", *evidence)


def _bar(total: int, largest: int) -> str:
    return "█" * max(min(1, total), round(BAR * total / largest))  # whoever got anything shows


def _share(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.0%}"


def format_ranks(given: tuple[int, ...]) -> str:
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
        f"budget: {plan.budget.spent:,} of {plan.budget.limit:,} {plan.budget.unit} spent{_mean_rank(plan)}",
    ]
    if plan.optimum is not None:
        lines.append(f"within {100 * plan.optimum.gap:.3f}% of the best possible value of its objective")
    if plan.training:
        lines.append(f"to be trained with {plan.training.shown()}; {plan.training.found}")
    return "\n".join([*lines, *_notes(plan)])


def _mean_rank(plan: Plan) -> str:
    """What the sites that are adapted have on average: a budget such as `rank 6` may be spent on half of them."""
    totals = [sum(site.ranks) for site in plan.sites if site.ranks]
    if len(set(totals)) == 1 and len(totals) == len(plan.sites):  # what the line before says
        return ""
    return f"; mean rank {sum(totals) / len(totals):.3g} of the {len(totals)} adapted sites" if totals else ""


def _notes(plan: Plan) -> list[str]:
    shown = [f"note: {note.text}" + (f" ({note.link})" if note.link else "") for note in plan.notes[:PRINTED_NOTES]]
    more = len(plan.notes) - len(shown)
    return shown + ([f"{more} more {'note' if more == 1 else 'notes'} in the plan file"] if more else [])


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
    title = _difference_title(plan, other, names) if differing else "the two plans give every site the same"
    table = Table(title=title, **LOOK)  # type: ignore[arg-type]  # each key has its own type
    for heading in ("layer", "site"):
        table.add_column(heading, no_wrap=True)
    for heading in (plan.strategy, other.strategy, "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    labels = layer_labels(names)
    for site in plan.sites:
        mine, yours = site.ranks, theirs[names[site.name]].ranks if site.name in names else ()
        if mine != yours:
            change = f"{sum(yours) - sum(mine):+d}"
            where = (labels.get(site.name, ""), _projection(site.name))
            table.add_row(*where, format_ranks(mine), format_ranks(yours), change)
    return table


def _difference_title(plan: Plan, other: Plan, names: Mapping[str, str]) -> str:
    """`names`: site of the first plan -> the same site in the other."""
    gap = other.parameters - plan.parameters
    sizes = "equal size" if gap == 0 else f"{plan.parameters:,} and {other.parameters:,} parameters ({gap:+,})"
    theirs = {site.name: sum(site.ranks) for site in other.sites}
    pairs = [(sum(site.ranks), theirs[names[site.name]] if site.name in names else 0) for site in plan.sites]
    # Of both plans' ranks together, the same whichever plan comes first; for equal totals the share that would have to move.
    apart = sum(abs(mine - yours) for mine, yours in pairs) / max(1, sum(map(sum, pairs)))
    return f"{plan.strategy} -> {other.strategy}: {sizes}; {apart:.0%} of the rank is allocated differently"


def sensitivity_tables(report: SensitivityReport) -> list[Table]:
    """The squared gradient of every site, per parameter, and its adapter's loss reduction in trial runs; means over tasks."""
    found = [_site_table(report, "sensitivity: squared gradient per parameter, mean site = 1", _gradient)]
    if report.sites[0].loss_reduction:
        found.append(_site_table(report, "trial run: loss reduction per parameter of an adapter, mean site = 1", _loss_reduction))
    return [*found, *_usage_tables(report)]


def _usage_tables(report: SensitivityReport) -> list[Table]:
    """How the tokens of all tasks chose among the base's routed experts, layer by layer; none on a dense model."""
    layers: dict[tuple[str, int], dict[int, SiteSensitivity]] = {}
    for site in report.sites:
        expert, where = expert_index(site.name), parse_name(site.name)
        if expert is not None and where is not None and site.usage:
            layers.setdefault((where.stack, where.layer), {}).setdefault(expert, site)
    if not layers:
        return []
    title = "routing: share of the learned tokens that choose an expert, in brackets of all tokens; the most chosen first"
    table = Table("layer", "experts", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("chosen by no learned token", justify="right")
    labels = layer_labels(site.name for site in report.sites)
    for experts in layers.values():
        shares = {expert: _shares_of(site) for expert, site in experts.items()}
        unused = sum(learned == 0 for learned, _ in shares.values())
        table.add_row(labels[next(iter(experts.values())).name], most_used(shares), f"{unused} of {len(shares)}")
    return [table]


def _shares_of(site: SiteSensitivity) -> tuple[float, float]:
    tasks = len(site.usage)
    return sum(task.token_share for task in site.usage) / tasks, sum(task.all_share for task in site.usage) / tasks


def most_used(shares: Mapping[int, tuple[float, float]]) -> str:
    """The experts with the largest shares, and how many more there are.

    Args:
        shares: expert -> its share of the learned tokens and of all, the second NaN where it is not known.
    """
    order = sorted(shares, key=lambda expert: (-shares[expert][0], expert))
    shown = [f"{expert}: {shares[expert][0]:.0%}" + _bracketed(shares[expert][1]) for expert in order[:TOP_EXPERTS]]
    more = len(order) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _bracketed(share: float) -> str:
    return "" if math.isnan(share) else f" ({share:.0%})"


def _site_table(report: SensitivityReport, title: str, value: Callable[[SiteSensitivity], float]) -> Table:
    table = Table("layer", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    values = {site.name: value(site) for site in report.sites}
    grid, mean = layer_grid(values), sum(values.values()) / len(values) or math.nan
    for column in grid.columns:
        table.add_column(short_name(column), justify="right", overflow="fold")
    for row, cells in grid.rows.items():
        shown = (number(grid.mean(values, row, column) / mean, ".3g") if column in cells else "" for column in grid.columns)
        table.add_row(row, *shown)
    return table


def _gradient(site: SiteSensitivity) -> float:
    tasks = site.per_parameter()
    return sum(task.mean for task in tasks) / len(tasks)


def _loss_reduction(site: SiteSensitivity) -> float:
    return sum(task.mean for task in site.loss_reduction) / len(site.loss_reduction) / sum(site.shape)


def trial_run_lines(report: SensitivityReport) -> list[str]:
    """One line per task: what a trial run took off the loss, and whether that exceeds its noise; or that there was none."""
    return [f"{task.name}: {_trial_run(task.trial_run)}" for task in report.tasks]


def _trial_run(run: TrialRun | None) -> str:
    if run is None:
        return "no trial run, so learning rate and batch size were not used; `trial_steps` 30 makes one"
    reduced = run.loss_reduction
    said = f"a trial run of {run.steps} steps took {reduced.mean:.3f} +- {reduced.error:.3f} nats off the loss of {run.examples}"
    noise = "" if reduced.mean > 2 * reduced.error else ", no more than noise: more steps or a higher rate may tell more"
    return f"{said} held-out examples{noise}{_reliability(run)}"


def _reliability(run: TrialRun) -> str:
    if math.isnan(run.gap):  # a report of an earlier version
        return ""
    missed = (
        f"; modules account for {max(0.0, 1 - run.gap):.0%} of it"
        if run.complete
        else (f"; INCOMPLETE: {run.points} points miss {run.gap:.0%} of it, so `combined` refuses to plan from it")
    )
    halves = (
        "" if math.isnan(run.agreement) else f"; two halves of the examples rank modules alike by {run.agreement:.2f} (Spearman)"
    )
    return f"{missed}{halves}; {run.seconds:,.0f} s"


def stability_lines(report: SensitivityReport) -> str:
    """One line per task: how well rankings from disjoint samples agree, and from how many examples on."""
    return "\n".join(f"{task.name}: {task.examples} examples; {_stability(task)}" for task in report.tasks)


def _stability(task: Task) -> str:
    if not task.stability:
        return "8 or more would tell how stable the ranking is"
    last = task.stability[-1]
    stable = f"stable from {task.stable_from} examples" if task.stable_from else "not yet stable"
    return (
        f"rankings from two samples of {last.examples} agree: Spearman {last.rank_correlation:.2f}, top-half overlap"
        f" {last.overlap:.2f} (1 = identical, 0 = chance); {stable}"
    )
