"""The report page: whole, self-contained, and true to the files it was made from."""

from base64 import b64decode

import pytest

import planner
import spectra
from planner import AllocationSettings
from spectra import InputError
from tests.trainer.study.examples import QUICK, study_of
from tests.trainer.views.examples import HISTORY_OF_TWO, Page, evaluation_of, run_of, write_run
from trainer import compare, evaluate
from trainer.run_folder import EVALUATION
from trainer.study.report import BASELINE, STUDY
from trainer.views.html import page


@pytest.fixture(scope="module")
def study(minilm, spectra_report, small_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    plan = planner.allocate("60k", AllocationSettings(strategy="alphalora", max_experts=1), spectra=spectra_report)
    plan.save(folder / "<alpha>.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)  # or a run takes all cores, by which small products lose
        options = {"seeds": 2, "processes": 1, "rates": (), "binding": "skip"}
        compare([folder / "<alpha>.json"], minilm, small_corpus[:1], small_corpus[1:], folder / "study", QUICK, **options)
    return folder / "study"


@pytest.mark.training
def test_a_study_is_written_up_with_its_plans(study):
    text = page([study])
    found = Page(text)
    assert found.headings[0] == "Study study"
    assert set(found.headings[1:]) == {
        f"Plan {name}" for name in ("<alpha>", "head-only", "random", "uniform-lora", "uniform-mixture")
    }
    assert len(found.images) >= 5
    assert all(image.startswith("data:image/svg+xml;base64,") for image in found.images)
    assert "http" not in text.replace("base64", "")[: text.index("</head>")]
    assert "<alpha>" in found.cells
    assert "55,296" in found.cells  # whole layers only


@pytest.mark.training
def test_a_run_shows_its_scores_and_plan(study, small_corpus):
    (run,) = study.glob("runs/uniform-lora.seed-1.*")
    scores = evaluate(run, small_corpus[1], untrained=False)
    scores.save(run / EVALUATION)
    found = Page(page([run]))
    assert found.headings == [f"Run {run.name}", f"Plan {run.name}"]
    assert f"{100 * scores.trained['accuracy']:.1f}%" in found.cells


def test_a_run_made_by_hand_is_written_up_with_figures_tables_and_sentences(llama_plan, tmp_path):
    evaluation = evaluation_of({"accuracy": 0.75, "loss": 1.0}, majority={"accuracy": 0.5, "loss": 2.0})
    run = write_run(tmp_path / "mine", llama_plan, run_of(), evaluation, HISTORY_OF_TWO)
    found = Page(page([run]))
    assert found.headings == ["Run mine", "Plan mine"]
    assert len(found.images) == 1 + 3 + 1  # the training, three of its growth, the allocation; a uniform plan has no evidence
    assert b64decode(found.images[0].partition(",")[2]).startswith(b"<?xml")
    assert found.cells[:6] == ["fine-tuned", "75.0%", "1.000", "majority class", "50.0%", "2.000"]
    assert found.lines[0].startswith("trained 1,234 adapter and 20 head parameters for 4 steps on 1,200 texts")


def test_sections_follow_their_sources_and_every_one_can_be_reached(llama_plan, tmp_path):
    runs = [write_run(tmp_path / name, llama_plan) for name in ("one", "two")]
    text = page(runs)
    assert Page(text).headings == ["Run one", "Plan one", "Run two", "Plan two"]
    assert [f'<a href="#s{number}">' in text for number in (1, 4, 5)] == [True, True, False]
    assert "<title>Run one</title>" in text


def test_names_are_text_not_markup(llama_plan, tmp_path):
    study = study_of({BASELINE: {"<t>": [0.5, 0.6]}, "[b]<i>": {"<t>": [0.5, 0.7]}}, "accuracy")
    study.save(tmp_path / "study" / STUDY)
    found = Page(page([tmp_path / "study"]))
    assert found.headings == ["Study study"]
    assert "<t>, accuracy" in found.cells
    assert "the largest difference is [b]<i>'s" in " ".join(found.lines)


def test_reports_before_training_are_written_up_too(tiny_llama, tmp_path):
    spectra.analyze(tiny_llama).save(tmp_path / "spectra.json")
    found = Page(page([tmp_path / "spectra.json"]))
    assert found.headings == ["Spectra spectra"]
    assert len(found.images) == 3  # by depth, as a heat map, and densities


def test_what_cannot_be_shown_is_refused(tmp_path):
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"odd\.json: a file of kind None cannot be shown; give one of kind spectra, sensitivity"
    ):
        page([tmp_path / "odd.json"])
    with pytest.raises(InputError, match=r"run\.json: No such file"):
        page([tmp_path])
