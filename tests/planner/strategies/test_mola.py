from pathlib import Path

import numpy as np
import pytest

from planner import AllocationSettings, allocate
from planner.strategies.mola import QUARTERS, MolaSettings, mola
from spectra import InputError, load_spectra
from tests.planner.examples import evidence_of, site_of

ALPHAS = Path(__file__).parents[2] / "data" / "llama-7b-alpha-peak.csv"


@pytest.mark.parametrize(
    ("shape", "quarters"),
    [("rectangle", "5555"), ("inverted-triangle", "2468"), ("triangle", "8642"), ("hourglass", "8228"), ("diamond", "2882")],
)
def test_mola_shapes_on_32_layers(shape, quarters):
    spectra = load_spectra(ALPHAS)
    expected = [int(count) for count in quarters for _ in range(8)]
    plan = allocate(
        "160 experts",
        AllocationSettings(strategy={"name": "mola", "settings": {"shape": shape, "parity": True}}),
        spectra=spectra,
    )
    assert [len(site.ranks) for site in plan.sites[::7]] == expected
    assert plan.budget.spent == sum(expected)
    if shape != "rectangle":
        plan = allocate(
            "rank 20", AllocationSettings(strategy={"name": "mola", "settings": {"shape": shape}}, max_experts=1), spectra=spectra
        )
        totals = np.array([sum(site.ranks) for site in plan.sites[::7]])
        assert totals == pytest.approx(4 * np.array(expected), abs=1)


def test_every_stack_has_quarters_of_its_own():
    names = [f"{stack}.{layer}.q" for stack, layers in (("decoder", 4), ("encoder", 6)) for layer in range(layers)]
    demand = mola(evidence_of(*map(site_of, names)), MolaSettings(shape="triangle"))
    assert demand.weights == (8, 6, 4, 2, 8, 8, 6, 4, 4, 2)
    assert (demand.granularity, demand.utility, demand.experts) == ("layer", "log", None)
    assert mola(evidence_of(*map(site_of, names[:4])), MolaSettings(parity=True)).experts == (2, 4, 6, 8)


def test_other_shapes_are_refused_by_the_names_of_the_table():
    with pytest.raises(InputError, match=f"shape 'round': not one of {', '.join(QUARTERS)}"):
        AllocationSettings.checked({"strategy": {"name": "mola", "settings": {"shape": "round"}}}, "settings")
