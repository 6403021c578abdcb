import json

import pytest

from planner import Plan, mismatches, require_match
from spectra import InputError, open_checkpoint
from tests.planner.examples import plan_of, planned


@pytest.fixture
def stored(uniform_plan, tmp_path):
    """A plan on disk, and a function that edits it by hand."""
    path = tmp_path / "plan.json"
    uniform_plan.save(path)

    def edit(change):
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        return path

    return edit


def test_round_trip(stored, uniform_plan):
    assert Plan.load(stored(lambda data: None)).to_json() == uniform_plan.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["sites"][0].update(ranks=[7]), "top_k 2 does not fit 1 experts"),
        (lambda data: data["sites"][0].update(ranks=[7, 1]), r"budget.parameters says \d+, but the sites cost \d+"),
        (lambda data: data["sites"][0].update(ranks=[1, 0]), r"sites.0.ranks.1: .*greater than or equal to 1, got 0"),
        (lambda data: data["sites"][0].update(ranks=[900], top_k=1), "rank 900 exceeds the smaller side"),
        (lambda data: data["sites"][0].update(rank=3), "sites.0.rank: Extra inputs are not permitted, got 3"),
        (lambda data: data["sites"].append(data["sites"][0]), "appears twice"),
        (lambda data: data["budget"].update(limit=10), "spent 124416 parameters of a limit of 10"),
        (lambda data: data.pop("strategy"), "strategy: Field required"),
    ],
)
def test_plans_edited_by_hand_are_checked(stored, change, message):
    with pytest.raises(InputError, match=message) as caught:
        Plan.load(stored(change))
    assert "\n" not in str(caught.value)


def test_a_plan_fits_its_model(uniform_plan, minilm):
    assert mismatches(uniform_plan, open_checkpoint(minilm)) == []


def test_a_plan_for_another_model_is_told_in_two_lines(uniform_plan, tiny_llama):
    faults = mismatches(uniform_plan, open_checkpoint(tiny_llama))
    assert len(faults) == 2
    assert "made for another model" in faults[0]
    assert faults[1].startswith("none of its 36 sites, such as 'encoder.layer.0.attention.output.dense', is a module of")
    with pytest.raises(InputError, match=r"another model.*and 1 more"):
        require_match(uniform_plan, open_checkpoint(tiny_llama))


def test_a_wrong_shape_and_an_unknown_module_are_named(stored, minilm):
    def change(data):
        data["sites"][0]["name"] += ".nothing"
        wide = next(site for site in data["sites"] if site["shape"] == [1536, 384])
        wide["shape"] = [384, 1536]
        extra = 2 * (384 - 1536)  # of the two experts' router, whose side changes with the shape
        data["budget"]["spent"] -= extra
        data["budget"]["parameters"] -= extra

    faults = mismatches(Plan.load(stored(change)), open_checkpoint(minilm))
    assert len(faults) == 2
    assert "attention.output.dense.nothing': no such module" in faults[0]
    assert "planned for shape [384, 1536], found [1536, 384]" in faults[1]


def test_without_adapters_keeps_the_sites(uniform_plan):
    control = uniform_plan.without_adapters()
    assert control.parameters == 0
    assert [site.name for site in control.sites] == [site.name for site in uniform_plan.sites]
    Plan.model_validate(control.model_dump())


def test_a_plan_of_another_version_is_refused(stored):
    with pytest.raises(InputError, match=r"schema version 1 cannot be read by this loraplan \(it reads 2\); make the file again"):
        Plan.load(stored(lambda data: data.update(schema_version=1)))


def test_a_site_costs_its_experts_and_their_router():
    assert planned("layers.0.q", (3, 1), shape=(6, 4)).parameters == 4 * 10 + 2 * 4
    assert planned("layers.0.q", (3,), shape=(6, 4)).parameters == 30
    assert planned("layers.0.q", ()).parameters == 0
    assert plan_of(planned("layers.0.q", (3,)), planned("layers.1.q", (1, 1))).parameters == 3 * 24 + 2 * 24 + 2 * 8


@pytest.mark.parametrize(("name", "routed"), [("layers.0.mlp.experts.3.up_proj", True), ("layers.0.mlp.up_proj", False)])
def test_a_site_knows_whether_it_belongs_to_a_routed_expert(name, routed):
    assert planned(name, (1,)).routed is routed


def test_experts_may_be_budgeted_and_cost_what_they_cost(uniform_plan):
    budget = uniform_plan.budget.model_copy(update={"unit": "experts", "limit": 12, "spent": 12})
    plan = Plan.model_validate(uniform_plan.model_copy(update={"budget": budget}).model_dump())
    assert (plan.budget.spent, plan.parameters) == (12, uniform_plan.parameters)
