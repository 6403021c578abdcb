"""What settings of data leave open, fixed from the data, the model and the machine."""

import datetime

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.data.examples import CHATML, bytewise
from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.data.resolve import NEEDED, PACKED, Pass, require_rows, resolved_data
from trainer.settings import DataSettings

PASS = Pass(rows=4, precision="fp32")
TALKS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
DATED = "{{ strftime_now('%d') }}" + CHATML
SWITCHED = CHATML.replace("assistant\n{% endif %}", "assistant\n{{ '<think>' if enable_thinking is not defined }}{% endif %}")


@pytest.fixture
def talks(tmp_path):
    return read_texts(write_rows(tmp_path / "m.jsonl", TALKS))


def found(tiny_llama, texts, settings=None, template=CHATML, made=PASS, noted=None):
    return resolved_data(settings or DataSettings(), [texts], bytewise(template), open_checkpoint(tiny_llama), made, noted)


def test_the_length_is_what_the_model_has_positions_for(tiny_llama, talks):
    limit = open_checkpoint(tiny_llama).config["max_position_embeddings"]
    assert found(tiny_llama, talks).length == limit
    assert found(tiny_llama, talks, DataSettings(max_length=48)).length == 48


def test_or_what_the_memory_holds(tiny_llama, talks, monkeypatch):
    monkeypatch.setattr("trainer.limits.device_memory", lambda: 2**24)
    small = found(tiny_llama, talks).length
    assert small < open_checkpoint(tiny_llama).config["max_position_embeddings"]
    assert small % 32 == 0
    assert found(tiny_llama, talks, made=Pass(rows=1, precision="fp32")).length > small
    monkeypatch.setattr("trainer.limits.device_memory", lambda: 0)
    assert found(tiny_llama, talks).length == 64


def test_packed_rows_are_no_longer_than_they_need_be(tiny_llama, talks, monkeypatch):
    monkeypatch.setattr("trainer.data.resolve.positions", lambda checkpoint: None)
    assert found(tiny_llama, talks, made=Pass(rows=1, precision="fp32", packing=True)).length == PACKED


def test_the_day_is_fixed_only_where_a_template_writes_it(tiny_llama, talks):
    assert found(tiny_llama, talks).template_date is None
    assert found(tiny_llama, talks, template=DATED).template_date == datetime.date.today().isoformat()
    assert found(tiny_llama, talks, DataSettings(template_date="2026-01-31"), DATED).template_date == "2026-01-31"


def test_a_thinking_switch_is_set_and_told(tiny_llama, talks, caplog):
    caplog.set_level("INFO", logger="loraplan")
    settings = found(tiny_llama, talks, DataSettings(template_option="tone=dry"), SWITCHED)
    assert settings.template_options() == {"tone": "dry", "enable_thinking": False}
    assert "the chat template is given enable_thinking=false, so that answers begin as they are asked for" in caplog.text


def test_a_run_that_is_resumed_goes_on_as_it_began(tiny_llama, talks):
    noted = DataSettings(max_length=77, template_option="enable_thinking=true", template_date="2026-01-31")
    assert found(tiny_llama, talks, template=DATED, noted=noted) == noted
    other = found(tiny_llama, talks, DataSettings(template_option="tone=dry"), DATED, noted=noted)
    assert other.template_option == "tone=dry"


@pytest.mark.parametrize("name", NEEDED)
def test_settings_of_rows_that_no_file_has_are_refused(tmp_path, name):
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": "a b"}]))
    other = {"turns": "last", "role_map": "a=user", "chat_template": "chatml", "template_option": "a=b", "join": "space"}
    with pytest.raises(InputError, match=f"`{name}` has no effect on data without"):
        require_rows(DataSettings(**{name: other.get(name, "2026-01-31")}), [texts])
    require_rows(DataSettings(), [texts])


def test_data_without_conversations_needs_no_template(tiny_llama, tmp_path):
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": "a b"}]))
    assert found(tiny_llama, texts, template=DATED) == DataSettings(max_length=found(tiny_llama, texts).length)
