"""Which plans a study compares: the user's, and baselines of their size."""

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.examples import uniform
from trainer.study.candidates import TOLERANCE, baselines_of, candidates_of
from trainer.study.report import BASELINE


@pytest.fixture(scope="module")
def checkpoint(tiny_llama):
    return open_checkpoint(tiny_llama)


@pytest.fixture
def plan_file(tiny_llama, tmp_path):
    def save(name, budget="6000", **settings):
        path = tmp_path / f"{name}.json"
        uniform(tiny_llama, budget, max_experts=1, **settings).save(path)
        return path

    return save


def test_the_users_plans_come_first_and_then_the_baselines(checkpoint, plan_file):
    found = candidates_of([plan_file("mine"), plan_file("other")], checkpoint, "classification", baselines=True)
    assert list(found) == ["mine", "other", BASELINE, "uniform-mixture", "random", "head-only"]
    assert "head-only" not in candidates_of([plan_file("mine")], checkpoint, "causal", baselines=True)


def test_baselines_are_as_large_as_the_plans(checkpoint):
    found = baselines_of(6000, checkpoint, "classification")
    for name in (BASELINE, "uniform-mixture", "random"):
        assert 0.9 * 6000 < found[name].parameters <= 6000, name
    assert found["head-only"].parameters == 0
    assert all(len(site.ranks) <= 1 for name in (BASELINE, "random") for site in found[name].sites)
    assert any(len(site.ranks) > 1 for site in found["uniform-mixture"].sites)
    assert [found[name].strategy for name in found] == ["uniform", "uniform", "random", "none"]


def test_a_scarce_budget_has_baselines_that_are_even_over_the_layers(minilm):
    checkpoint = open_checkpoint(minilm)
    least = uniform(minilm, "rank 1").parameters
    found = baselines_of(least // 2, checkpoint, "classification")
    ranks = {}
    for site in found[BASELINE].sites:
        ranks.setdefault(site.name.rpartition("layer.")[2].partition(".")[2], set()).add(sum(site.ranks))
    assert all(len(own) == 1 for own in ranks.values())
    assert {0} in ranks.values()
    for name in (BASELINE, "random"):
        assert 0.8 * least / 2 < found[name].parameters <= least / 2
    assert len({sum(site.ranks) for site in found["random"].sites}) > 2


def test_a_budget_below_any_even_baseline_is_refused(minilm):
    message = f"plans of 900 parameters are smaller than rank 1 at any one projection type.* give a {BASELINE}.json of your own"
    with pytest.raises(InputError, match=message):
        baselines_of(900, open_checkpoint(minilm), "classification")


def test_without_baselines_the_user_gives_the_one_that_all_are_compared_with(checkpoint, plan_file):
    mine, own = plan_file("mine"), plan_file(BASELINE)
    assert list(candidates_of([mine, own], checkpoint, "causal", baselines=False)) == ["mine", BASELINE]
    with pytest.raises(InputError, match=r"without baselines one of the plans must be called uniform-lora\.json"):
        candidates_of([mine], checkpoint, "causal", baselines=False)
    with pytest.raises(InputError, match="one plan and no baselines: there is nothing to compare"):
        candidates_of([own], checkpoint, "causal", baselines=False)


def test_names_that_clash_are_refused(checkpoint, plan_file, tmp_path):
    with pytest.raises(InputError, match="plan 'random' has the name of a baseline; rename the file"):
        candidates_of([plan_file("random")], checkpoint, "causal", baselines=True)
    mine = plan_file("mine")
    (tmp_path / "there").mkdir()
    twin = mine.rename(tmp_path / "there" / "mine.json")
    with pytest.raises(InputError, match="two plan files share a name; rename one"):
        candidates_of([plan_file("mine"), twin], checkpoint, "causal", baselines=True)


@pytest.mark.parametrize(("share", "fits"), [(1 - TOLERANCE + 0.02, True), (1 - TOLERANCE - 0.02, False)])
def test_plans_of_unequal_size_are_refused(checkpoint, plan_file, tmp_path, share, fits):
    whole = plan_file("whole", "12k")
    most = uniform(checkpoint.folder, "12k", max_experts=1).parameters
    part = plan_file("part", str(int(share * most)))
    if fits:
        candidates_of([whole, part], checkpoint, "causal", baselines=True)
        return
    with pytest.raises(InputError, match=r"plans differ in size by more than 10%: whole [\d,]+, part [\d,]+; make them with one"):
        candidates_of([whole, part], checkpoint, "causal", baselines=True)


def test_a_plan_for_another_model_is_refused(tiny_olmoe, checkpoint, tmp_path):
    uniform(tiny_olmoe, "rank 2").save(tmp_path / "mine.json")
    with pytest.raises(InputError, match="plan was made for another model"):
        candidates_of([tmp_path / "mine.json"], checkpoint, "causal", baselines=True)
