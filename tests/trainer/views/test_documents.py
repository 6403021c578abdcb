"""The dispatcher over everything that is written: text, tables and figures of each kind, found by what a path holds."""

import pytest

import planner
from planner import AllocationSettings
from spectra import InputError, open_checkpoint
from spectra.report import Density, ModelInfo, SpectraReport
from tests.trainer.study.examples import study_of
from tests.trainer.views.examples import HISTORY_OF_TWO, evaluation_of, run_of, write_run
from trainer.run_folder import PLAN, REPORT
from trainer.settings import DataSettings
from trainer.study.report import BASELINE, STUDY
from trainer.views.documents import DOCUMENTS, draw, find_document
from trainer.views.plots import GROWTH


@pytest.fixture
def plan_file(lora_plan, tmp_path):
    lora_plan.save(tmp_path / "mine.json")
    return tmp_path / "mine.json"


@pytest.fixture
def study(tmp_path, lora_plan):
    study_of({BASELINE: {"t": [0.5, 0.6]}, "mine": {"t": [0.5, 0.7]}}, "accuracy").save(tmp_path / "study" / STUDY)
    for name in ("mine", BASELINE):
        lora_plan.save(tmp_path / "study" / "plans" / f"{name}.json")
    return tmp_path / "study"


@pytest.fixture(scope="module")
def llama_reports(tiny_llama, sentences):
    import spectra
    from trainer import load_sample

    checkpoint = open_checkpoint(tiny_llama)
    sample = load_sample(checkpoint, sentences, samples=8, settings=DataSettings(max_length=16), seed=0)
    return spectra.analyze(tiny_llama), planner.probe(sample.model, sample.batches, checkpoint=checkpoint)


def names_of(figures):
    return [name for name, _ in figures]


def test_the_kinds_of_documents_that_can_be_shown():
    assert list(DOCUMENTS) == ["spectra", "sensitivity", "plan", "run", "study"]


def test_a_path_holds_what_its_content_says(plan_file, study, lora_plan, tmp_path):
    run = write_run(tmp_path / "run", lora_plan)
    (tmp_path / "alphas.csv").write_text("name,rows,cols,alpha\n")
    assert find_document(plan_file) == ("plan", plan_file)
    assert find_document(str(run)) == ("run", run)
    assert find_document(study) == find_document(study / STUDY) == ("study", study / STUDY)
    assert find_document(tmp_path / "alphas.csv") == ("spectra", tmp_path / "alphas.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "a file of kind None cannot be shown; give one of kind spectra, sensitivity, plan, study, or a run's folder"),
        ('{"kind": "evaluation"}', "a file of kind 'evaluation' cannot be shown"),
        ("[1]", "a file of kind None cannot be shown"),
        ("odd", "odd.json:1: not JSON"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, content, message):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(InputError, match=message):
        find_document(tmp_path / "odd.json")


def test_a_folder_that_is_no_run_and_a_path_to_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json: No such file"):
        find_document(tmp_path)
    with pytest.raises(InputError, match=r"nothing\.json: No such file"):
        find_document(tmp_path / "nothing.json")


def test_a_plan_has_its_allocation_and_its_evidence_where_there_is_any(plan_file, llama_reports, tmp_path):
    view = DOCUMENTS["plan"]
    assert view.text(plan_file)[0].startswith("14 of 14 sites adapted")
    (table,) = view.tables(plan_file)
    assert table.row_count == 14
    assert names_of(view.figures(plan_file)) == ["allocation"]
    bare = tmp_path / "bare.json"
    view.load(plan_file).without_adapters().save(bare)
    assert names_of(view.figures(bare)) == []
    spectra_report, sensitivity = llama_reports
    settings = AllocationSettings(strategy="combined")
    planner.allocate("3000", settings, spectra=spectra_report, sensitivity=sensitivity).save(tmp_path / "learned.json")
    assert names_of(view.figures(tmp_path / "learned.json")) == ["allocation", "evidence"]
    assert view.parts(plan_file) == []


def test_spectra_have_a_density_where_they_were_kept(llama_reports, tmp_path):
    report, _ = llama_reports
    report.save(tmp_path / "s.json")
    view = DOCUMENTS["spectra"]
    assert view.load(tmp_path / "s.json").to_json() == report.to_json()
    assert all(isinstance(line, str) for line in view.text(tmp_path / "s.json"))
    assert view.tables(tmp_path / "s.json")
    kept = names_of(view.figures(tmp_path / "s.json"))
    assert kept[:2] == ["alpha", "heatmap"]
    assert ("density" in kept) == any(site.density for site in report.sites)
    density = Density(log10_min=-1.0, log10_max=1.0, counts=(1, 2))
    first, *rest = report.sites
    for given in (None, density):
        sites = tuple(site.model_copy(update={"density": given}) for site in (first, *rest))
        SpectraReport.model_validate(report.model_copy(update={"sites": sites}).model_dump()).save(tmp_path / "s.json")
        assert names_of(view.figures(tmp_path / "s.json")) == ["alpha", "heatmap", *["density"] * (given is not None)]


def test_a_sensitivity_report_has_tables_lines_and_one_figure(llama_reports, tmp_path):
    _, report = llama_reports
    report.save(tmp_path / "s.json")
    view = DOCUMENTS["sensitivity"]
    assert view.tables(tmp_path / "s.json")
    assert view.text(tmp_path / "s.json")
    assert names_of(view.figures(tmp_path / "s.json")) == ["sensitivity"]


def test_a_run_shows_what_is_in_its_folder(lora_plan, tmp_path):
    view, bare = DOCUMENTS["run"], write_run(tmp_path / "bare", lora_plan)
    assert view.text(bare)[0].startswith("trained 1,234 adapter")
    assert (view.tables(bare), names_of(view.figures(bare)), view.parts(bare)) == ([], ["training"], [bare / PLAN])
    scored = evaluation_of({"loss": 1.0}, one=(1, {"loss": 1.0}), two=(1, {"loss": 1.0}))
    full = write_run(tmp_path / "full", lora_plan, run_of(strategy="dr-lora"), scored, HISTORY_OF_TWO)
    assert len(view.tables(full)) == 3
    assert names_of(view.figures(full)) == ["training", "growth-ranks", "growth-shares", "growth-saliency"]
    assert view.load(full).strategy == "dr-lora"


def test_a_study_comes_with_its_plans(study):
    view, path = DOCUMENTS["study"], study / STUDY
    budget, plans, means = view.text(path)
    assert budget == "Whether the budget binds was not asked (`binding` skip)."
    assert plans.startswith("No plan is told apart from uniform LoRA; the largest difference is mine's, +5.00 points")
    assert means.startswith("2 seeds on 20 examples; 0 of 4 runs diverged")
    assert [table.row_count for table in view.tables(path)] == [2, 2]
    assert names_of(view.figures(path)) == ["differences"]
    assert [part.name for part in view.parts(path)] == ["mine.json", f"{BASELINE}.json"]


@pytest.fixture
def unwritten(monkeypatch):
    """Figures are made and named but not drawn, which takes longest."""
    monkeypatch.setattr("spectra.views.figures.rendered", lambda figure: {"figure": type(figure).__name__.encode()})


def test_figures_are_written_as_png_and_svg(plan_file, tmp_path):
    drawn = list(draw([plan_file], tmp_path / "plots"))
    assert drawn == [tmp_path / "plots" / f"mine-allocation.{suffix}" for suffix in ("png", "svg")]
    assert [path.read_bytes()[:5] for path in drawn] == [b"\x89PNG\r", b"<?xml"]


def test_figures_have_the_documents_name(plan_file, study, lora_plan, tmp_path, unwritten):
    run = write_run(tmp_path / "grown", lora_plan, history=HISTORY_OF_TWO)
    names = ["mine-allocation", "grown-training", *(f"grown-growth-{what}" for what in GROWTH), "study-differences"]
    assert list(draw([plan_file, run, study], tmp_path)) == [tmp_path / f"{name}.figure" for name in names]


def test_documents_of_one_name_are_told_apart_by_their_folders(lora_plan, tmp_path, unwritten):
    for folder in ("a", "b"):
        lora_plan.save(tmp_path / folder / "plan.json")
    drawn = list(draw([tmp_path / folder / "plan.json" for folder in ("a", "b")], tmp_path))
    assert drawn == [tmp_path / "a-plan-allocation.figure", tmp_path / "b-plan-allocation.figure"]


def test_no_figure_replaces_another(lora_plan, tmp_path, unwritten):
    """Such as the plans of two runs of a study with one seed."""
    paths = [tmp_path / name / "seed-0" / "plan.json" for name in ("mine", "random")]
    for path in paths:
        lora_plan.save(path)
    assert len(set(draw(paths, tmp_path))) == 2


def test_neighbouring_spectra_of_one_architecture_are_compared(llama_reports, tmp_path, unwritten):
    report, _ = llama_reports
    other = report.model_copy(update={"model": ModelInfo(name="later", parameters=1, fingerprint="sha256:y")})
    strange = report.model_copy(
        update={"sites": tuple(site.model_copy(update={"name": f"other.{site.name}.x"}) for site in report.sites)}
    )
    for name, one in {"one": report, "two": other, "three": strange}.items():
        one.save(tmp_path / f"{name}.json")
    drawn = list(draw([tmp_path / f"{name}.json" for name in ("one", "two", "three")], tmp_path))
    assert [path.stem for path in drawn if "comparison" in path.stem] == ["one-two-comparison"]


def test_nothing_is_drawn_where_one_of_several_paths_cannot_be(plan_file, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json: No such file"):
        list(draw([plan_file, tmp_path / "nothing.json"], tmp_path / "plots"))
    assert not (tmp_path / "plots").exists()


def test_a_runs_report_stands_for_its_folder(lora_plan, tmp_path):
    kind, path = find_document(write_run(tmp_path / "run", lora_plan) / REPORT)
    assert DOCUMENTS[kind].load(path) == run_of()
