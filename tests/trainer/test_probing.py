"""Measuring tasks: gradients of every file and, where it is asked for, a trial run."""

from contextlib import contextmanager

import pytest

import planner
from spectra import InputError, open_checkpoint
from tests.trainer.examples import write_rows
from trainer import ProbeSettings, load_sample
from trainer.attribution import trial_run
from trainer.attribution.attribution import MOST
from trainer.probing import measure
from trainer.settings import DataSettings

FEW = ProbeSettings(samples=6, max_length=16, trial_steps=0, batch_size=8, precision="fp32")


class Seen:
    """A stage of the work that notes what it is told."""

    def __init__(self):
        self.stages = {}

    @contextmanager
    def __call__(self, title):
        told = self.stages.setdefault(title, [])
        yield lambda done, total=None, note="": told.append((done, total))


@pytest.fixture
def two_tasks(tmp_path):
    words = ("file", "list", "dict", "set", "class", "error", "number", "string")
    rows = {name: [{"text": f"{verb} the {word}"} for word in words for verb in verbs]
            for name, verbs in {"open": ("open", "read", "write"), "close": ("close",)}.items()}  # fmt: skip
    return [write_rows(tmp_path / f"{name}.jsonl", found) for name, found in rows.items()]


def test_every_file_is_a_task_and_the_sensitivity_is_the_planners(tiny_llama, two_tasks):
    checkpoint, seen = open_checkpoint(tiny_llama), Seen()
    report = measure(checkpoint, two_tasks, FEW, stage=seen)
    assert [(task.name, task.examples, task.trial_run) for task in report.tasks] == [("open", 6, None), ("close", 6, None)]
    assert seen.stages == {"gradients of open": [(6, 6)], "gradients of close": [(6, 6)]}
    sample = load_sample(checkpoint, two_tasks[0], samples=6, settings=DataSettings(max_length=16), seed=0)
    alone = planner.probe(sample.model, sample.batches, checkpoint=checkpoint, task="open")
    assert [site.squared_gradient[0] for site in report.sites] == [site.squared_gradient[0] for site in alone.sites]
    assert all(len(site.squared_gradient) == 2 and not site.loss_reduction for site in report.sites)


def test_recomputing_activations_changes_nothing(tiny_llama, two_tasks):
    checkpoint = open_checkpoint(tiny_llama)
    one, other = (
        measure(checkpoint, two_tasks[:1], FEW.model_copy(update={"gradient_checkpointing": on})) for on in (False, True)
    )
    for ours, theirs in zip(one.sites, other.sites, strict=True):
        assert ours.squared_gradient[0].mean == pytest.approx(theirs.squared_gradient[0].mean, rel=1e-5)


def test_effective_ranks_are_measured_where_they_are_asked_for_and_make_a_plan(tiny_llama, two_tasks):
    report = measure(open_checkpoint(tiny_llama), two_tasks, FEW.model_copy(update={"effective_rank": True}))
    assert all(len(site.effective_rank) == 2 and min(site.effective_rank) >= 1 for site in report.sites)
    plan = planner.allocate("rank 4", planner.AllocationSettings(strategy="effective-rank"), sensitivity=report)
    assert len({site.ranks for site in plan.sites}) > 1
    without = measure(open_checkpoint(tiny_llama), two_tasks[:1], FEW)
    assert not any(site.effective_rank for site in without.sites)


def test_two_files_of_one_name_are_refused(tiny_llama, two_tasks, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "open.jsonl"
    twin.write_text(two_tasks[0].read_text())
    with pytest.raises(InputError, match="task 'open' appears twice in the sensitivity reports"):
        measure(open_checkpoint(tiny_llama), [two_tasks[0], twin], FEW)


@pytest.mark.training
def test_a_trial_run_adds_a_loss_reduction_to_every_site(tiny_llama, two_tasks):
    seen = Seen()
    settings = FEW.model_copy(update={"trial_steps": 3, "learning_rate": 0.02})
    report = measure(open_checkpoint(tiny_llama), two_tasks[:1], settings, stage=seen)
    (task,) = report.tasks
    assert (task.trial_run.steps, task.trial_run.batch_size, task.trial_run.learning_rate) == (3, 8, 0.02)
    assert all(len(site.loss_reduction) == 1 for site in report.sites)
    total = sum(site.loss_reduction[0].mean for site in report.sites)
    assert total == pytest.approx(task.trial_run.loss_reduction.mean, rel=1e-9)
    assert list(seen.stages) == ["gradients of open", "trial run of open"]
    points = task.trial_run.points  # of the integral, after three steps
    assert seen.stages["trial run of open"][-2:] == [(3 + points, 3 + MOST), (3 + MOST, 3 + MOST)]
    assert min(task.seconds, task.trial_run.seconds) > 0


@pytest.mark.training
def test_by_default_language_models_are_tried_and_classifiers_are_not(tiny_llama, sentences, small_corpus, monkeypatch):
    monkeypatch.setitem(trial_run.STEPS, "causal", 2)
    checkpoint, settings = open_checkpoint(tiny_llama), FEW.model_copy(update={"trial_steps": None})
    language, labelled = (measure(checkpoint, [file], settings) for file in (sentences, small_corpus[0]))
    assert language.tasks[0].trial_run.steps == 2
    assert labelled.tasks[0].trial_run is None


def test_reports_of_some_modules_make_a_plan_for_these(tiny_llama, two_tasks):
    import spectra

    checkpoint, modules = open_checkpoint(tiny_llama), "q_proj,down_proj"
    some = FEW.model_copy(update={"modules": modules, "trial_steps": 2})
    sensitivity = measure(checkpoint, two_tasks[:1], some)
    assert len(sensitivity.sites) == 4
    assert all(site.loss_reduction for site in sensitivity.sites)
    alphas = spectra.analyze(tiny_llama, spectra.AnalysisSettings(modules=modules))
    wanted = planner.AllocationSettings(modules=modules)
    known = {"sensitivity": sensitivity, "spectra": alphas}
    small = planner.allocate("rank 2", wanted, **known)
    whole = planner.allocate("rank 2", wanted, **known, model=checkpoint)
    given = {site.name: site.ranks for site in whole.sites if site.ranks}
    assert given == {site.name: site.ranks for site in small.sites if site.ranks}
    assert {name.rpartition(".")[2] for name in given} == {"q_proj", "down_proj"}
    assert len(whole.sites) == 14
    with pytest.raises(InputError, match=r"is missing from the spectra report; was it made with other `modules`\?"):
        planner.allocate("rank 2", **known, model=checkpoint)


def test_a_report_of_some_modules_and_a_whole_one_go_together_where_these_are_asked_for(tiny_llama, two_tasks):
    import spectra

    whole = measure(open_checkpoint(tiny_llama), two_tasks[:1], FEW)
    some = spectra.analyze(tiny_llama, spectra.AnalysisSettings(modules="attention"))
    plan = planner.allocate("rank 2", planner.AllocationSettings(modules="attention"), spectra=some, sensitivity=whole)
    assert {site.name.split(".")[3] for site in plan.sites} == {"self_attn"}
    with pytest.raises(InputError, match="is no module of the model, or the other report was made with `modules`"):
        planner.allocate("rank 2", spectra=some, sensitivity=whole)
