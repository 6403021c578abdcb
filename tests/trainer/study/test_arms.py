"""What a study compares: the user's plans with settings of their own, and baselines of their size."""

import pytest

from planner import Plan
from spectra import InputError, open_checkpoint
from tests.trainer.examples import uniform
from tests.trainer.study.examples import QUICK
from trainer.study.arms import TOLERANCE, baselines_of, candidates_of, changes_of, uniform_of
from trainer.study.report import BASELINE


@pytest.fixture(scope="module")
def checkpoint(tiny_llama):
    return open_checkpoint(tiny_llama)


@pytest.fixture
def plan_file(tiny_llama, tmp_path):
    def save(name, budget="6000", **settings):
        path = tmp_path / f"{name}.json"
        uniform(tiny_llama, budget, **{"max_experts": 1} | settings).save(path)
        return path

    return save


def arms_of(files, checkpoint, task="causal", baselines=True, **options):
    return candidates_of(files, checkpoint, task, QUICK, baselines=baselines, **options)


def names(found):
    return [candidate.name for candidate in found]


def test_the_users_plans_come_first_and_then_the_baselines(checkpoint, plan_file):
    found = arms_of([plan_file("mine"), plan_file("other")], checkpoint, "classification")
    assert names(found) == ["mine", "other", BASELINE, "uniform-mixture", "random", "head-only"]
    assert [candidate.own for candidate in found] == [True, True, False, False, False, False]
    assert "head-only" not in names(arms_of([plan_file("mine")], checkpoint))


def test_baselines_are_as_large_as_the_plans(checkpoint):
    found = {candidate.name: candidate.plan for candidate in baselines_of(6000, checkpoint, "classification")}
    for name in (BASELINE, "uniform-mixture", "random"):
        assert 0.9 * 6000 < found[name].parameters <= 6000, name
    assert found["head-only"].parameters == 0
    assert all(len(site.ranks) <= 1 for name in (BASELINE, "random") for site in found[name].sites)
    assert any(len(site.ranks) > 1 for site in found["uniform-mixture"].sites)
    assert [found[name].strategy for name in found] == ["uniform", "uniform", "random", "none"]


def test_the_random_plan_is_drawn_anew_for_every_seed(checkpoint):
    random = next(one for one in baselines_of(6000, checkpoint, "causal") if one.name == "random")
    assert random.plan_of(None) is random.plan
    drawn = [random.plan_of(seed) for seed in (0, 1, 0)]
    ranks = [[site.ranks for site in plan.sites] for plan in drawn]
    assert ranks[0] == ranks[2] != ranks[1]


def test_a_scarce_budget_has_baselines_that_are_even_over_the_layers(minilm):
    checkpoint = open_checkpoint(minilm)
    least = uniform(minilm, "rank 1").parameters
    found = {candidate.name: candidate.plan for candidate in baselines_of(least // 2, checkpoint, "classification")}
    ranks = {}
    for site in found[BASELINE].sites:
        ranks.setdefault(site.name.rpartition("layer.")[2].partition(".")[2], set()).add(sum(site.ranks))
    assert all(len(own) == 1 for own in ranks.values())
    assert {0} in ranks.values()
    for name in (BASELINE, "random"):
        assert 0.8 * least / 2 < found[name].parameters <= least / 2
    assert len({sum(site.ranks) for site in found["random"].sites}) >= 2


def test_a_budget_below_any_even_baseline_is_refused(minilm):
    message = f"plans of 900 parameters are smaller than rank 1 at any one projection type.* give a {BASELINE}.json of your own"
    with pytest.raises(InputError, match=message):
        uniform_of(900, open_checkpoint(minilm))


def test_without_baselines_the_user_gives_the_one_that_all_are_compared_with(checkpoint, plan_file):
    mine, own = plan_file("mine"), plan_file(BASELINE)
    assert names(arms_of([mine, own], checkpoint, baselines=False)) == ["mine", BASELINE]
    with pytest.raises(InputError, match=r"without baselines one of the plans must be called uniform-lora\.json"):
        arms_of([mine], checkpoint, baselines=False)
    with pytest.raises(InputError, match="one plan and no baselines: there is nothing to compare"):
        arms_of([own], checkpoint, baselines=False)
    with pytest.raises(InputError, match="no plans: there is nothing to compare"):
        arms_of([], checkpoint)


def test_names_that_clash_are_refused(checkpoint, plan_file, tmp_path):
    with pytest.raises(InputError, match="plan 'random' has the name of a baseline; rename the file"):
        arms_of([plan_file("random")], checkpoint)
    mine = plan_file("mine")
    with pytest.raises(InputError, match="two plan files share a name; rename one"):
        arms_of([mine], checkpoint, arms=[f"mine={mine},alpha=2"])


@pytest.mark.parametrize(("less", "fits"), [(0.004, True), (0.05, False)])
def test_plans_of_unequal_size_are_refused(checkpoint, plan_file, tmp_path, less, fits):
    whole = plan_file("whole", "rank 8", max_rank=64)
    most = Plan.load(whole).parameters
    part = plan_file("part", str(int((1 - less) * most)), granularity="module", max_rank=64)
    assert TOLERANCE == 0.005
    if fits:
        arms_of([whole, part], checkpoint)
        return
    with pytest.raises(
        InputError, match=r"plans differ in size by more than 0\.5%: whole [\d,]+, part [\d,]+; make them with one"
    ):
        arms_of([whole, part], checkpoint)


def test_a_plan_for_another_model_is_refused(tiny_olmoe, checkpoint, tmp_path):
    uniform(tiny_olmoe, "rank 2").save(tmp_path / "mine.json")
    with pytest.raises(InputError, match="plan was made for another model"):
        arms_of([tmp_path / "mine.json"], checkpoint)


def test_an_arm_may_have_settings_of_its_own(checkpoint, plan_file):
    mine = plan_file("mine")
    plain, changed = arms_of([mine], checkpoint, arms=[f"warm={mine},alpha=32,warmup=0.25"])[:2]
    assert (plain.changes, changed.name, changed.changes) == ({}, "warm", {"alpha": 32.0, "warmup": 0.25})
    assert changed.settings(QUICK) == QUICK.model_copy(update={"alpha": 32.0, "warmup": 0.25})


def test_a_routers_own_setting_stands_beside_the_others():
    found = changes_of({"router": "sira", "capacity": 2.0}, QUICK, "`arm`")
    assert found["router"].name == "sira"
    assert found["router"].settings.capacity == 2.0
    assert set(found) == {"router"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine", "`arm` 'mine': not of the form NAME=PLAN,SETTING=VALUE, such as"),
        ("x={plan},alpha", "'alpha' is no SETTING=VALUE"),
        ("x={plan},seed=3", "`seed` is the study's own; leave it out"),
        ("x={plan},learning-rate=1e-3", "`learning_rate` is the study's own; leave it out"),
        ("x={plan},speed=3", "there is no setting 'speed'; see `plan train`'s help"),
        ("x={plan},alpha=-1", "alpha"),
        ("x=nowhere.json", "nowhere.json"),
    ],
)
def test_a_wrong_arm_is_refused_in_one_line(checkpoint, plan_file, text, message):
    mine = plan_file("mine")
    with pytest.raises(InputError, match=message) as raised:
        arms_of([], checkpoint, arms=[text.format(plan=mine)])
    assert len(str(raised.value).splitlines()) == 1
