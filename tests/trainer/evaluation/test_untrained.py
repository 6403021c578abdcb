"""What is kept of the untrained model: asked once for each model, file and way of asking."""

import pytest

from spectra import open_checkpoint
from spectra.core.files import cache_folder
from tests.trainer.examples import SHORT, uniform, write_rows
from trainer import DataSettings, evaluate, train
from trainer.adapters.config import load_config
from trainer.evaluation import evaluate as module
from trainer.evaluation.untrained import Untrained, keep, kept, place_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAPLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def run(tiny_llama, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained") / "run"
    train(uniform(tiny_llama, "rank 1", max_experts=1), tiny_llama, sentences, folder, SHORT)
    return folder


@pytest.mark.training
def test_the_untrained_model_is_asked_once(run, sentences, cache, monkeypatch):
    asked = []
    through = module._Counter.through
    monkeypatch.setattr(module._Counter, "through", lambda *given: asked.append(1) or through(*given))
    one, other = (evaluate(run, sentences, precision="fp32") for _ in range(2))
    assert len(asked) == 2 + 1
    assert one == other
    (entry,) = (cache / "untrained").iterdir()
    entry.write_text("{damaged")
    assert evaluate(run, sentences, precision="fp32") == one
    assert len(asked) == 5
    assert Untrained.model_validate_json(entry.read_bytes()).scores == one.untrained


@pytest.mark.training
def test_what_is_asked_otherwise_is_another_question(run, sentences, tiny_llama, tmp_path):
    checkpoint, config = open_checkpoint(tiny_llama), load_config(run)
    other = write_rows(tmp_path / "text.jsonl", [{"text": "read the file"}])
    places = {
        place_of(checkpoint, sentences, config, "fp32", 0),
        place_of(checkpoint, other, config, "fp32", 0),
        place_of(checkpoint, sentences, config, "bf16", 0),
        place_of(checkpoint, sentences, config, "fp32", 5),
        place_of(checkpoint, sentences, config.model_copy(update={"data": DataSettings(max_length=8)}), "fp32", 0),
    }
    assert len(places) == 5
    assert place_of(checkpoint, sentences, config, "fp32", 0) in places


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "below" / "entry.json"
    keep(place, Untrained(scores={"loss": 1.0}))
    assert kept(place) is None


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAPLAN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LORAPLAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "loraplan"
