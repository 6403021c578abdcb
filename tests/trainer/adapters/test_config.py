import json

import pytest

from spectra import InputError
from trainer import DataSettings, MixtureSettings
from trainer.adapters.config import AdapterConfig, load_config
from trainer.adapters.reference_logits import ReferenceLogits
from trainer.run_folder import CONFIG


def config(**changes):
    values = {
        "base_model_name_or_path": "/models/base", "task": "classification", "labels": ("a", "b"), "label_counts": (3, 1),
        "data": DataSettings(max_length=16), "seed": 0, "pad_token_id": None, "base_weights": "sha256:x",
        "mixture": MixtureSettings(router={"name": "sira", "settings": {"capacity": 2.0}}),
    }  # fmt: skip
    return AdapterConfig(**values | changes)


def test_a_configuration_comes_back(tmp_path):
    written = config(reference=ReferenceLogits(ids=(1, 2), logits=(0.5, -0.25)))
    (tmp_path / CONFIG).write_text(written.model_dump_json())
    assert load_config(tmp_path) == load_config(str(tmp_path)) == written


def test_what_is_no_finished_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"not a finished run: no loraplan\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version: Input should be 3, got 2"),
        ({"data": {}}, "max_length is left open"),
        ({"task": "translation"}, "task: Input should be 'classification' or 'causal', got 'translation'"),
        ({"label_counts": [0, 1]}, r"label_counts\.0: .*greater than or equal to 1"),
        ({"kind": "causal"}, "kind: Extra inputs are not permitted"),
        ({"mixture": {"router": "best"}}, "router 'best': not one of"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path, change, message):
    (tmp_path / CONFIG).write_text(json.dumps(config().model_dump(mode="json") | change))
    with pytest.raises(InputError, match=rf"loraplan\.json: {message}") as caught:
        load_config(tmp_path)
    assert "\n" not in str(caught.value)
