"""The table of formats that a plan can be exported to: PEFT's LoRA configuration, CSV, Markdown, YAML."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping

from planner.plan import Plan, PlannedSite
from planner.views.tables import format_ranks, number
from spectra import InputError

SCALE = 2  # lora_alpha over the mean rank: what most recipes use


def export(plan: Plan, form: str) -> str:
    """Write a plan in another format.

    Args:
        plan: the plan.
        form: a name from the table `EXPORTERS`.

    Raises:
        InputError: a format that is not in the table, or a plan that it cannot express.
    """
    if form not in EXPORTERS:
        raise InputError(f"format {form!r}: not one of {', '.join(EXPORTERS)}")
    return EXPORTERS[form](plan)


def peft(plan: Plan) -> str:
    """PEFT's adapter_config.json for a LoRA with each site's total rank and one `lora_alpha`, so that all learn at one pace.

    PEFT knows no mixtures, so a mixture becomes one LoRA of the same total rank. `lora_alpha` is twice the mean rank, as most
    recipes for PEFT have it; `plan train` scales by 4 sqrt(mean rank), which is the same at rank 4.

    Raises:
        InputError: the plan adapts nothing, or routed experts, which PEFT names per layer only.
    """
    adapted = {site.name: sum(site.ranks) for site in plan.sites if site.ranks}
    if not adapted:
        raise InputError("the plan adapts nothing: there is no LoRA to configure")
    if routed := [site.name for site in plan.sites if site.name in adapted and site.routed]:
        raise InputError(
            f"site {routed[0]!r} is a routed expert, which a LoraConfig names by layer only; train the plan with plan train,"
            " whose runs are PEFT adapters where all experts of a layer have the same ranks"
        )
    # The commonest rank as `r` leaves the fewest exceptions to list.
    usual = Counter(adapted.values()).most_common(1)[0][0]
    config = {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": round(SCALE * sum(adapted.values()) / len(adapted)),  # an int in LoraConfig
        "target_modules": sorted(adapted),
        "rank_pattern": {name: rank for name, rank in adapted.items() if rank != usual},
        "bias": "none",
        "lora_dropout": 0.0,
    }
    return json.dumps(config, indent=2) + "\n"


def _rows(plan: Plan) -> list[dict[str, object]]:
    return [_row(site) for site in plan.sites]


def _row(site: PlannedSite) -> dict[str, object]:
    return {
        "site": site.name,
        "d_out": site.shape[0],
        "d_in": site.shape[1],
        "experts": len(site.ranks),
        "ranks": format_ranks(site.ranks),
        "total_rank": sum(site.ranks),
        "top_k": site.top_k,
        "parameters": site.parameters,
        "weight": number(site.weight, ".6g"),
        "alpha": number(site.alpha, ".6g"),
        "sensitivity": number(site.sensitivity, ".6g"),
    }


def comma_separated(plan: Plan) -> str:
    """One row per site."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_row(plan.sites[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(plan))
    return text.getvalue()


def markdown(plan: Plan) -> str:
    """A heading, the summary and one table row per adapted site, for a paper's appendix or an issue."""
    lines = [
        f"# {plan.strategy} for {plan.model.name}",
        "",
        f"Budget {plan.budget.request}: {plan.parameters:,} trainable parameters, routers included.",
        *(f"\n{note.text}" for note in plan.notes),
        "",
        "| site | ranks | parameters | weight | alpha |",
        "|---|---:|---:|---:|---:|",
    ]
    for site in plan.sites:
        cells = (format_ranks(site.ranks), f"{site.parameters:,}", f"{site.weight:.2f}", number(site.alpha, ".2f"))
        lines.append(f"| {site.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def yaml(plan: Plan) -> str:
    """Site -> ranks and top_k, for training scripts of one's own."""
    from yaml import safe_dump

    sites = {site.name: {"ranks": list(site.ranks), "top_k": site.top_k} for site in plan.sites if site.ranks}
    head = {"model": plan.model.name, "strategy": plan.strategy, "parameters": plan.parameters}
    text: str = safe_dump(head | {"sites": sites}, sort_keys=False, default_flow_style=None, width=130)
    return text


EXPORTERS: Mapping[str, Callable[[Plan], str]] = {"peft": peft, "csv": comma_separated, "markdown": markdown, "yaml": yaml}
