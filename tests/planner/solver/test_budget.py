import pytest

from planner.solver.budget import parse_budget, site_cost
from spectra import InputError


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("2000000", "parameters", 2_000_000),
        ("500k", "parameters", 500_000),
        ("2M", "parameters", 2_000_000),
        ("1.5 M", "parameters", 1_500_000),
        ("1%", "parameters", 10_000),
        ("0.25%", "parameters", 2_500),
        ("160 experts", "experts", 160),
        ("1 expert", "experts", 1),
        ("5 experts per layer", "experts", 20),
        ("1 expert per layer", "experts", 4),
        ("1e6", "parameters", 1_000_000),
        ("2,000_000", "parameters", 2_000_000),
        ("rank 8", "parameters", 4_000),
        ("Rank 8 everywhere", "parameters", 4_000),
        ("rank=8", "parameters", 4_000),
        ("match rank 8", "parameters", 4_000),
    ],
)
def test_how_budgets_are_written(text, unit, amount):
    limit = parse_budget(text, parameters=1_000_000, rank_cost=500, layers=4)
    assert (limit.unit, limit.amount) == (unit, amount)


@pytest.mark.parametrize(
    "text", ["", "much", "-5", "1.5", "2.5 experts", "2.5 experts per layer", "0", "0%", "10 ranks", "rank", "rank 0"]
)
def test_other_writings_are_refused(text):
    with pytest.raises(InputError, match="budget"):
        parse_budget(text, parameters=1_000_000, rank_cost=500, layers=4)


def test_cost_counts_the_router_only_where_there_is_a_choice():
    assert site_cost((6, 4), ()) == 0
    assert site_cost((6, 4), (3,)) == 3 * 10
    assert site_cost((6, 4), (3, 1)) == 4 * 10 + 2 * 4


def test_cost_of_a_llama_layer():
    # 7 modules of LLaMA-2-7B at rank 8: the published arithmetic, 624,640 LoRA parameters per expert
    shapes = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    assert sum(site_cost(shape, (8,)) for shape in shapes) == 624_640
    assert sum(site_cost(shape, (8, 8)) for shape in shapes) == 2 * (624_640 + 35_584)


@pytest.mark.parametrize(("text", "rank"), [("match rank 8", 8), ("Match  Rank = 3", 3), ("rank 8", 0), ("4000", 0)])
def test_a_rank_may_be_matched_instead_of_spent(text, rank):
    limit = parse_budget(text, parameters=1_000_000, rank_cost=500, layers=4)
    assert (limit.match_rank, limit.request) == (rank, text)


def test_a_refusal_says_how_budgets_are_written():
    with pytest.raises(InputError, match=r"budget 'worth rank 8' cannot be read; write trainable parameters .*\(match rank 8\)"):
        parse_budget("worth rank 8", parameters=1_000_000, rank_cost=500, layers=4)
