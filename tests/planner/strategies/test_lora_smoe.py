import math

import numpy as np
import pytest

import planner
from planner import AllocationSettings, allocate
from planner.strategies.lora_smoe import LoraSmoeSettings, lora_smoe
from spectra import InputError
from spectra.checkpoint.names import parse_name
from tests.planner.examples import evidence_of, site_of


@pytest.mark.parametrize("grouping", ["projection", "block", "all"])
def test_lora_smoe_counts_tasks_within_each_group(evidence, grouping):
    plan = allocate("1%", AllocationSettings(strategy={"name": "lora-smoe", "settings": {"grouping": grouping}}), **evidence)
    adapted = [site for site in plan.sites if site.ranks]
    if grouping == "projection":
        for projection in {parse_name(site.name).projection for site in plan.sites}:
            sites = [site for site in plan.sites if parse_name(site.name).projection == projection]
            top = sorted(sites, key=lambda site: -site.sensitivity)[:3]
            assert {site.name for site in adapted} & {site.name for site in sites} == {site.name for site in top}
    raw = {site.name: site.sensitivity * math.prod(site.shape) for site in plan.sites}
    attention = [site.name for site in plan.sites if "attention" in site.name]
    pools = {"projection": [], "block": [attention, sorted(raw.keys() - set(attention))], "all": [sorted(raw)]}[grouping]
    for pool in pools:
        best = sorted(pool, key=lambda name: -raw[name])[: len(pool) - 1 - int(0.4 * (len(pool) - 1))]
        assert {site.name for site in adapted} & set(pool) == set(best)


def two_tasks(sensitivity):
    """A second task whose gradients are the first's moved on by seven sites, within each shape."""
    by_shape = {}
    for site in sensitivity.sites:
        by_shape.setdefault(site.shape, []).append(site)
    partner = {site.name: other for sites in by_shape.values() for site, other in zip(sites, sites[7:] + sites[:7], strict=True)}
    fields = ("squared_gradient", "magnitude", "taylor", "fisher")
    sites = [
        site.model_copy(update={field: getattr(partner[site.name], field) for field in fields}) for site in sensitivity.sites
    ]
    task = sensitivity.tasks[0].model_copy(update={"name": "other"})
    return planner.join([sensitivity, sensitivity.model_copy(update={"tasks": (task,), "sites": tuple(sites)})])


def test_lora_smoe_with_parity_gives_an_expert_per_task(sensitivity):
    both = two_tasks(sensitivity)
    plan = allocate("2M", AllocationSettings(strategy={"name": "lora-smoe", "settings": {"parity": True}}), sensitivity=both)
    values = np.array([[estimate.mean for estimate in site.per_parameter()] for site in both.sites])
    types = np.array([parse_name(site.name).projection for site in both.sites])
    for projection in set(types):
        members = types == projection
        limits = [np.sort(column)[::-1][3] for column in values[members].T]  # of 6, the best 3 are above the 40th percentile
        counts = [len(site.ranks) for site, member in zip(plan.sites, members, strict=True) if member]
        assert counts == [int((row > limits).sum()) for row in values[members]]
    assert {rank for site in plan.sites for rank in site.ranks} == {8}
    with pytest.raises(InputError, match=r"takes .* parameters as released, more than the budget '1%'; raise the budget"):
        allocate("1%", AllocationSettings(strategy={"name": "lora-smoe", "settings": {"parity": True}}), sensitivity=both)


def test_lora_smoe_rank_follows_the_count(sensitivity):
    plan = allocate("2%", AllocationSettings(strategy="lora-smoe", max_experts=1), sensitivity=two_tasks(sensitivity))
    totals = {}
    for site in plan.sites:
        totals.setdefault(round(site.weight, 6), []).append(sum(site.ranks))
    assert sorted(totals)[0] == 0
    once, twice = (np.mean(totals[weight]) for weight in sorted(totals)[1:])
    assert twice == pytest.approx(2 * once, rel=0.15)


def test_a_site_counts_the_tasks_in_which_it_is_in_the_top_of_its_group():
    gradients = [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0), (4.0, 2.0), (5.0, 1.0)]
    sites = [site_of(f"layers.{layer}.q", tasks=tasks) for layer, tasks in enumerate(gradients)]
    demand = lora_smoe(evidence_of(*sites, site_of("layers.0.up", tasks=(9.0, 9.0))), LoraSmoeSettings())
    # the 40th percentile of 1 to 5 is 2.6; a group of one is never above its own
    assert demand.weights == (1.0, 1.0, 2.0, 1.0, 1.0, 0.0)
    assert (demand.utility, demand.experts) == ("log", None)
    literal = lora_smoe(evidence_of(*sites), LoraSmoeSettings(parity=True))
    assert literal.experts == (1, 1, 2, 1, 1)


def test_without_gradients_there_is_nothing_to_count():
    with pytest.raises(InputError, match="'lora-smoe' needs `sensitivity` with measured values"):
        lora_smoe(evidence_of(site_of("layers.0.q", alpha=2.0)), LoraSmoeSettings())
