"""The frozen base split among processes: what is refused; whole runs are in test_several_processes.py."""

import pytest
import torch
from torch import nn

from spectra import InputError
from tests import models
from tests.trainer.examples import SHORT
from trainer import apply_plan, train
from trainer.training.sharding import averaged, is_sharded, shard

CPU = torch.device("cpu")


def test_sharding_needs_company():
    message = "`shard` splits the frozen weights among processes, and there is one; start with torchrun --nproc-per-node N"
    with pytest.raises(InputError, match=message):
        shard(models.build("llama"), CPU, 1)


@pytest.mark.training
def test_a_run_alone_is_refused_before_anything_is_written(llama_plan, tiny_llama, sentences, tmp_path):
    with pytest.raises(InputError, match="`shard` splits the frozen weights among processes, and there is one"):
        train(llama_plan, tiny_llama, sentences, tmp_path / "run", SHORT.model_copy(update={"shard": True}))
    assert not (tmp_path / "run").exists()


def test_quantised_weights_are_refused():
    model = models.build("llama")
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match=r"`shard`: 'model\.layers\.0\.mlp\.up_proj\.weight' is quantised"):
        shard(model, CPU, 2)


def test_a_model_that_does_not_name_its_layers_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model._no_split_modules = None
    with pytest.raises(InputError, match="`shard`: Sequential does not say which of its modules are layers"):
        shard(model, CPU, 2)
    model._no_split_modules = ["Block"]  # a name that no module has
    with pytest.raises(InputError, match="does not say which of its modules are layers"):
        shard(model, CPU, 2)


def test_a_plain_model_is_not_sharded(llama_plan):
    assert not is_sharded(apply_plan(models.build("llama"), llama_plan))


def test_only_what_is_trained_is_averaged(llama_plan, monkeypatch):
    model = apply_plan(models.build("llama"), llama_plan)
    ignored = []

    class Wrapped:
        _set_params_and_buffers_to_ignore_for_model = staticmethod(lambda model, names: ignored.extend(names))

        def __init__(self, model):
            self.model = model

    monkeypatch.setattr("trainer.training.sharding.DistributedDataParallel", Wrapped)
    wrapped = averaged(model, model)
    assert wrapped.model is model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    assert any(name.endswith(".scaling") for name in buffers)
    assert set(ignored) == {name for name, _ in model.named_parameters()} - trained | buffers
