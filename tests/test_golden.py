"""The golden files: one document of every kind, made before this test and made again by it.

Structure, names, counts and ranks have to be the same. Numbers may differ by what another machine's products round differently,
which a few training steps multiply. After a change that is meant to show: python -m tests.golden.make, and read the diff.
"""

import json
import math
from pathlib import Path

import pytest

from planner import Plan, SensitivityReport
from spectra import SpectraReport
from tests.golden.make import make
from trainer import Evaluation, RunReport
from trainer.adapters.config import AdapterConfig
from trainer.report import GrowthHistory
from trainer.study.report import StudyReport

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(path.name for path in GOLDEN.glob("*.json"))
CLASSES = {
    "spectra": SpectraReport,
    "sensitivity": SensitivityReport,
    "plan": Plan,
    "run": RunReport,
    "evaluation": Evaluation,
    "growth": GrowthHistory,
    "study": StudyReport,
}
EXACT, TRAINED = 1e-6, 1e-2  # relative; of what is computed, and of what comes out of training
# Where two laws fit a few values alike their comparison is a sum that nearly cancels, which processors of different makers round
# differently: by up to 0.2 of its standard deviation between an Intel and an AMD machine. A p-value moves by no more than that.
CANCELLED = 0.25
AFTER_TRAINING = ("run-", "grown-", "evaluation", "study")


def assert_alike(ours, golden, rel, where):
    assert type(ours) is type(golden), where
    if isinstance(golden, dict):
        assert ours.keys() == golden.keys(), where
        for key in golden.keys() - {"made_from", "version"}:  # hashes of other documents
            own = TRAINED if key == "loss_reduction" else 0.0  # comes out of training, whatever document it is in
            assert_alike(ours[key], golden[key], max(rel, own), f"{where}.{key}")
    elif isinstance(golden, list):
        assert len(ours) == len(golden), where
        for number, (one, other) in enumerate(zip(ours, golden, strict=True)):
            assert_alike(one, other, rel, f"{where}[{number}]")
    elif isinstance(golden, float):
        field = where.rpartition(".")[2] if ".comparisons[" in where else ""
        least = {"ratio": 1e-5, "normalised_ratio": CANCELLED, "iid_p": CANCELLED}.get(field, rel / 10)
        assert math.isclose(ours, golden, rel_tol=rel, abs_tol=least), f"{where}: {ours} instead of {golden}"
    else:
        assert ours == golden, where


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    make(folder, tmp_path_factory.mktemp("scratch"))
    return folder


@pytest.mark.training
@pytest.mark.parametrize("name", FILES)
def test_the_document_is_what_it_was(made, name):
    trained = name.startswith(AFTER_TRAINING) or "sensitivity" in name
    ours, golden = (json.loads((folder / name).read_text()) for folder in (made, GOLDEN))
    assert_alike(ours, golden, TRAINED if trained else EXACT, name)


@pytest.mark.training
def test_no_document_is_without_its_golden_file(made):
    assert sorted(path.name for path in made.glob("*.json")) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_reads_and_writes_back_to_the_same_bytes(name):
    text = (GOLDEN / name).read_text()
    if name == "run-loraplan.json":
        assert AdapterConfig.checked(json.loads(text), name).model_dump_json(indent=2) + "\n" == text
        return
    kind = json.loads(text)["kind"]
    read = CLASSES[kind].load(GOLDEN / name)
    assert json.loads(read.to_json()) == json.loads(text)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_kind_of_document_has_a_golden_file(kind):
    assert any(json.loads((GOLDEN / name).read_text()).get("kind") == kind for name in FILES)
