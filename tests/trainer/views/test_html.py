"""The report page: whole, self-contained, and true to the files it was made from."""

from html.parser import HTMLParser

import pytest

import planner
from spectra import InputError
from trainer import TrainSettings, compare, evaluate
from trainer.views.html import page

QUICK = TrainSettings(max_steps=3, batch_size=8, max_length=16, precision="fp32")
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects what is shown, and fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.headings, self.cells = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert not found.keys() & {"onclick", "srcset"}
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            self.images.append(found["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h1":
            self.headings.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


@pytest.fixture(scope="module")
def study(minilm, spectra_report, small_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    plan = planner.allocate(budget="60k", strategy="alphalora", max_experts=1, spectra=spectra_report)
    plan.save(folder / "<alpha>.json")
    compare([folder / "<alpha>.json"], minilm, small_corpus[:1], small_corpus[1:], folder / "study", QUICK, seeds=2, processes=1)
    return folder / "study"


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


def test_a_run_shows_its_scores_and_plan(study, small_corpus):
    run = study / "runs" / "uniform-lora" / "seed-1"
    scores = evaluate(run, small_corpus[1], untrained=False)
    found = Page(page([run]))
    assert found.headings == ["Run seed-1", "Plan seed-1"]
    assert f"{100 * scores.trained.accuracy:.1f}%" in found.cells


def test_reports_before_training_are_written_up_too(spectra_report, tmp_path):
    spectra_report.save(tmp_path / "spectra.json")
    found = Page(page([tmp_path / "spectra.json"]))
    assert found.headings == ["Spectra spectra"]
    assert len(found.images) == 2


def test_what_has_no_figures_is_refused(tmp_path):
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(InputError, match=r"odd\.json: a file of kind None has no figures"):
        page([tmp_path / "odd.json"])
    with pytest.raises(InputError, match=r"run\.json: No such file"):
        page([tmp_path])
