import math

import pytest

from planner import SensitivityReport, join
from planner.sensitivity.report import COMPLETE, Estimate, ExpertUsage, TrialRun
from spectra import InputError
from spectra.report import ModelInfo
from tests.planner.examples import exactly, sensitivity_of

REPORT = sensitivity_of(
    {"layers.0.q": [8.0], "layers.1.q": [4.0]}, stability=[{"examples": 4, "rank_correlation": 0.5, "overlap": 1.0}]
)


def renamed(report, name):
    return report.model_copy(update={"tasks": (report.tasks[0].model_copy(update={"name": name}),)})


def test_the_report_survives_the_disk(tmp_path):
    REPORT.save(tmp_path / "s.json")
    assert SensitivityReport.load(tmp_path / "s.json") == REPORT


def test_tasks_are_joined_column_by_column():
    one, other = renamed(REPORT, "a"), sensitivity_of({"layers.0.q": [1.0], "layers.1.q": [2.0]}, names=("b",))
    both = join([one, other])
    assert [task.name for task in both.tasks] == ["a", "b"]
    assert both.sites[0].squared_gradient == (*one.sites[0].squared_gradient, *other.sites[0].squared_gradient)
    assert [estimate.mean for estimate in both.by_name()["layers.1.q"].fisher] == [4.0, 2.0]
    with pytest.raises(InputError, match="'a' appears twice"):
        join([one, one])
    with pytest.raises(InputError, match="of different models"):
        join([one, sensitivity_of({"layers.0.v": [1.0], "layers.1.q": [2.0]}, names=("c",))])


def test_how_experts_were_used_is_joined_too():
    used = [{"layers.0.q": (ExpertUsage(token_share=share, mean_weight=math.nan),)} for share in (0.25, 0.75)]
    reports = [sensitivity_of({"layers.0.q": [1.0]}, names=(name,), usage=usage) for name, usage in zip("ab", used, strict=True)]
    assert [task.token_share for task in join(reports).sites[0].usage] == [0.25, 0.75]


def test_a_statistic_is_had_by_name_and_per_parameter():
    site = REPORT.by_name()["layers.0.q"]
    assert site.of("squared-gradient") == site.squared_gradient == (exactly(8.0),)
    assert site.per_parameter() == (exactly(1.0),)  # of a 4 x 2 matrix
    noisy = site.model_copy(update={"taylor": (Estimate(mean=16.0, error=4.0),)})
    assert noisy.per_parameter("taylor") == (Estimate(mean=2.0, error=0.5),)


RUN = TrialRun(rank=2, steps=30, batch_size=8, learning_rate=1e-3, examples=64, loss_reduction=Estimate(mean=3.0, error=0.1))


@pytest.mark.parametrize(
    ("gap", "reduced", "complete"),
    [
        (0.0, 3.0, True),
        (COMPLETE, 3.0, True),
        (0.051, 3.0, False),
        (0.051, 0.2, True),  # no more than noise, whatever was missed of it
        (7.0, -3.0, True),
        (math.nan, 3.0, True),  # an earlier version did not say
    ],
)
def test_a_trial_run_is_complete_if_little_was_missed_or_little_was_gained(gap, reduced, complete):
    run = RUN.model_copy(update={"gap": gap, "loss_reduction": Estimate(mean=reduced, error=0.1)})
    assert run.complete is complete
    single = run.model_copy(update={"loss_reduction": Estimate(mean=reduced, error=math.nan)})
    assert single.complete  # of a single batch nobody knows the noise


def test_reports_of_earlier_versions_know_nothing_of_gaps_times_and_effective_ranks():
    data = tried_report().model_dump(mode="json")
    for field in ("gap", "points", "agreement", "seconds"):
        del data["tasks"][0]["trial_run"][field]
    del data["tasks"][0]["seconds"], data["sites"][0]["effective_rank"]
    report = SensitivityReport.checked(data, "report")
    run = report.tasks[0].trial_run
    assert run.points == 0
    assert all(math.isnan(value) for value in (run.gap, run.agreement, run.seconds, report.tasks[0].seconds))
    assert report.sites[0].effective_rank == ()


def tried_report():
    return REPORT.with_trial_run(RUN, {"layers.0.q": exactly(1.0), "layers.1.q": exactly(2.0)})


def with_effective_ranks(report, *values):
    sites = (site.model_copy(update={"effective_rank": (value,)}) for site, value in zip(report.sites, values, strict=True))
    return report.model_copy(update={"sites": tuple(sites)})


def test_effective_ranks_are_joined_where_all_tasks_have_them():
    one, other = with_effective_ranks(renamed(REPORT, "a"), 2.0, 3.0), with_effective_ranks(renamed(REPORT, "b"), 4.0, math.nan)
    assert [site.effective_rank for site in join([one, other]).sites] == [(2.0, 4.0), (3.0, pytest.approx(math.nan, nan_ok=True))]
    for without in ([one, renamed(REPORT, "b")], [renamed(REPORT, "b"), one]):
        assert [site.effective_rank for site in join(without).sites] == [(), ()]


def test_a_trial_run_adds_a_loss_reduction_to_every_site():
    report = tried_report()
    assert report.tasks[0].trial_run == RUN
    assert [site.loss_reduction for site in report.sites] == [(exactly(1.0),), (exactly(2.0),)]
    assert [site.squared_gradient for site in report.sites] == [site.squared_gradient for site in REPORT.sites]
    both = join([renamed(report, "a"), renamed(REPORT, "b")])  # only one task was tried
    assert both.sites[1].loss_reduction == (exactly(2.0),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["sites"][0].update(taylor=[]), "layers.0.q: unequal numbers of tasks"),
        (lambda data: data["tasks"].append(data["tasks"][0]), "layers.0.q: 1 gradients for 2 tasks"),
        (lambda data: data["sites"][1].update(effective_rank=[1.0, 2.0]), "layers.1.q: 2 effective ranks for 1 tasks"),
        (lambda data: data["sites"][1].update(usage=2 * [{"token_share": 0.5, "mean_weight": 0.5}]),
         "layers.1.q: 2 uses for 1 tasks"),
        (lambda data: data["sites"][1].update(loss_reduction=[{"mean": 1.0, "error": 0.0}]),
         "layers.1.q: 1 loss reductions for 0 tasks with a trial run"),
        (lambda data: data["tasks"][0].update(trial_run=RUN.model_dump()),
         "layers.0.q: 0 loss reductions for 1 tasks with a trial run"),
        (lambda data: data.update(sites=[]), "sites: .*at least 1 item"),
    ],
)  # fmt: skip
def test_reports_edited_by_hand_are_checked(change, message):
    data = REPORT.model_dump(mode="json")
    change(data)
    with pytest.raises(InputError, match=message):
        SensitivityReport.checked(data, "report")


def test_an_unknown_error_is_null_on_disk(tmp_path):
    site = REPORT.sites[0].model_copy(update={"fisher": (Estimate(mean=1.0, error=math.nan),)})
    report = REPORT.model_copy(update={"sites": (site,), "model": ModelInfo(name="m", parameters=1, fingerprint=None)})
    report.save(tmp_path / "s.json")
    assert '"fisher": [{"error": null, "mean": 1.0}]' in (tmp_path / "s.json").read_text()
    assert math.isnan(SensitivityReport.load(tmp_path / "s.json").sites[0].fisher[0].error)
