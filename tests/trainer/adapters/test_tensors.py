"""The trained tensors: which they are, and that a file must hold exactly them."""

import pytest
import torch
from safetensors.torch import save_file

from spectra import InputError
from tests import models
from tests.trainer.examples import uniform
from trainer import MixtureSettings, apply_plan
from trainer.adapters.peft import to_peft
from trainer.adapters.tensors import load_state, read_state, trained_state
from trainer.layers.inject import trainable_parameters
from trainer.layers.mixture import mixtures


def adapted(family, plan, **settings):
    model = apply_plan(models.build(family), plan, MixtureSettings(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "loraplan" not in name:  # where the padding of experts must stay zero
                parameter.add_(torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def routed_plan(tiny_olmoe):
    return uniform(tiny_olmoe, "rank 2", max_experts=1)


def test_the_state_is_what_is_trained(llama_plan):
    model = adapted("llama", llama_plan)
    state = trained_state(model)
    assert state.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(tensor.numel() for tensor in state.values()) == llama_plan.parameters
    assert all(tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.requires_grad for tensor in state.values())


def test_experts_are_kept_without_padding(routed_plan):
    model = adapted("olmoe", routed_plan)
    state = trained_state(model)
    assert sum(tensor.numel() for tensor in state.values()) == routed_plan.parameters == trainable_parameters(model)
    assert tuple(state["model.layers.0.mlp.experts.loraplan.up_proj.A"].shape) == (8, 32)


def test_where_experts_did_not_start_at_zero_their_start_is_kept_too(llama_plan):
    state = trained_state(adapted("llama", llama_plan, init="svd"))
    extra = {name.rpartition(".")[2] for name in state} - {"A", "B", "router"}
    assert extra == {"A0", "B0"}


@pytest.mark.parametrize(("family", "init"), [("llama", "kaiming"), ("llama", "svd"), ("olmoe", "kaiming")])
def test_a_state_comes_back(family, init, llama_plan, routed_plan, tmp_path):
    plan = llama_plan if family == "llama" else routed_plan
    one = adapted(family, plan, init=init)
    save_file(trained_state(one), tmp_path / "state")
    other = apply_plan(models.build(family), plan, MixtureSettings(init=init))
    load_state(tmp_path / "state", other)
    before, after = trained_state(one), trained_state(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_start_from_another_machine_moves_the_base(llama_plan, tmp_path):
    model = adapted("llama", llama_plan, init="svd")
    state, name = trained_state(model), next(iter(mixtures(model)))
    weight = mixtures(model)[name].base.weight.clone()
    theirs = 2 * state[f"{name}.A0"]
    save_file(state | {f"{name}.A0": theirs}, tmp_path / "state")
    load_state(tmp_path / "state", model)
    assert (mixtures(model)[name].base.weight - weight).abs().max() > 1e-4
    assert torch.equal(mixtures(model)[name].A0, theirs)


def test_a_finished_run_without_routers_is_in_pefts_names(lora_plan, tmp_path):
    model = adapted("llama", lora_plan)
    save_file(to_peft(model, trained_state(model)), tmp_path / "state")
    other = apply_plan(models.build("llama"), lora_plan)
    load_state(tmp_path / "state", other)
    for name, tensor in trained_state(model).items():
        torch.testing.assert_close(trained_state(other)[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, name: state | {"odd": torch.zeros(1)}, "tensor 'odd' is in the file but not in the model"),
        (lambda state, name: {key: value for key, value in state.items() if key != name}, r"\.A' is in the model but not in the"),
        (lambda state, name: state | {name: state[name][:-1].contiguous()}, r"\.A' has shape \[\d, 32\], the model \[\d, 32\]"),
        (lambda state, name: state | {name: state[name] * torch.nan}, r"\.A' holds NaN or infinite values"),
        (lambda state, name: state | {name: state[name] * torch.inf}, r"\.A' holds NaN or infinite values"),
    ],
)
def test_a_file_that_does_not_hold_exactly_the_trained_tensors_is_refused(llama_plan, tmp_path, change, message):
    model = adapted("llama", llama_plan)
    state = trained_state(model)
    name = [name for name in state if name.endswith("q_proj.A")][-1]
    changed = change({key: value.clone() + 1 for key, value in state.items()}, name)
    save_file(changed, tmp_path / "state")
    with pytest.raises(InputError, match=rf"state: .*{message}"):
        load_state(tmp_path / "state", model)
    assert all(torch.equal(value, state[key]) for key, value in trained_state(model).items())  # the model stays as it was


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: not a readable safetensors file"):
        read_state(tmp_path / "nowhere")
    (tmp_path / "odd").write_bytes(b"odd")
    with pytest.raises(InputError, match="odd: not a readable safetensors file"):
        read_state(tmp_path / "odd")
