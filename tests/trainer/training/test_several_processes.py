"""Several processes, started as `torchrun` starts them, beside one process at the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import planner
import spectra
from spectra import InputError
from tests.conftest import save_with_tokenizer
from trainer import TrainSettings, evaluate, train
from trainer.report import GrowthHistory, RunReport

ROOT = Path(__file__).parents[2]
# At larger learning rates Adam turns the rounding of a near-zero gradient into a step.
GENTLE = TrainSettings(max_steps=6, batch_size=8, max_length=32, learning_rate=1e-4, precision="fp32")
SCRIPT = """
import sys
import planner, trainer
plan, model, data, output, settings, resume, evaluation = sys.argv[1:]
trainer.train(
    planner.Plan.load(plan), model, data, output, trainer.TrainSettings.model_validate_json(settings),
    resume=resume == "yes", evaluation=evaluation or None,
)
"""


def in_two_processes(plan, model, data, output, settings, *, resume=False, evaluation=""):
    """Train under torchrun; the finished process."""
    plan.save(output.parent / f"{output.name}-plan.json")
    script = output.parent / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    arguments = [output.parent / f"{output.name}-plan.json", model, data, output, settings.model_dump_json()]
    arguments += ["yes" if resume else "no", evaluation]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)


def assert_close(one, other):
    ours, theirs = load_file(one / "adapter_model.safetensors"), load_file(other / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def plan(tiny_llama):
    return planner.allocate(
        budget="6000", strategy="uniform", model=spectra.open_checkpoint(tiny_llama), expert_rank=1, max_experts=3
    )


@pytest.fixture(scope="module")
def one(plan, tiny_llama, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "one"
    train(plan, tiny_llama, sentences, folder, GENTLE, evaluation=sentences)
    return folder


@pytest.mark.parametrize("changes", [{}, {"shard": True}, {"shard": True, "gradient_checkpointing": True, "accumulation": 2}])
def test_two_processes_train_what_one_does(plan, tiny_llama, sentences, one, tmp_path, changes):
    two = tmp_path / "two"
    done = in_two_processes(plan, tiny_llama, sentences, two, GENTLE.model_copy(update=changes), evaluation=sentences)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_close(one, two)
    assert_close(one / "best", two / "best")
    losses = [[point.loss for point in RunReport.load(folder / "run.json").curve] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert evaluate(two, sentences).trained.loss == pytest.approx(evaluate(one, sentences).trained.loss, abs=1e-6)


def test_a_sharded_run_goes_on_where_it_was_cut(plan, tiny_llama, sentences, tmp_path):
    settings = GENTLE.model_copy(update={"shard": True})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert in_two_processes(plan, tiny_llama, sentences, whole, settings).returncode == 0
    assert in_two_processes(plan, tiny_llama, sentences, cut, settings).returncode == 0
    for path in ("adapter_model.safetensors", "run.json"):
        (cut / path).unlink()
    last = max(cut.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    (last / "adapter_model.safetensors").write_bytes(b"damaged")  # the run must go back to the checkpoint before
    assert in_two_processes(plan, tiny_llama, sentences, cut, settings, resume=True).returncode == 0
    name = "adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_sharding_needs_company(plan, tiny_llama, sentences, tmp_path):
    with pytest.raises(InputError, match="--shard splits the frozen weights among processes, and there is one"):
        train(plan, tiny_llama, sentences, tmp_path / "run", GENTLE.model_copy(update={"shard": True}))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.OlmoeConfig(
        vocab_size=300, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        num_experts=4, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return save_with_tokenizer(config, tmp_path_factory.mktemp("olmoe") / "model")


@pytest.mark.parametrize("shard", [False, True])
def test_experts_grow_alike_in_two_processes(olmoe, sentences, tmp_path, shard):
    checkpoint = spectra.open_checkpoint(olmoe)
    plan = planner.allocate(budget="rank 4", strategy="uniform", model=checkpoint, max_experts=1)
    settings = GENTLE.model_copy(update={"max_steps": 24, "grow": True})
    train(plan, olmoe, sentences, tmp_path / "one", settings)
    done = in_two_processes(plan, olmoe, sentences, tmp_path / "two", settings.model_copy(update={"shard": shard}))
    assert done.returncode == 0, done.stderr[-3000:]
    histories = [GrowthHistory.load(tmp_path / run / "growth.json").events for run in ("one", "two")]
    assert [event.ranks for event in histories[0]] == [event.ranks for event in histories[1]]
    assert planner.Plan.load(tmp_path / "one" / "plan.json") == planner.Plan.load(tmp_path / "two" / "plan.json")
    for alone, together in zip(*histories, strict=True):
        for group, saliency in alone.saliency.items():
            assert together.saliency[group] == pytest.approx(saliency, rel=1e-2)
            assert together.shares[group] == pytest.approx(alone.shares[group], abs=1e-4)
    # Not the adapters: A's gradient is all but zero while a new direction's B is, and Adam steps by the sign of its rounding.
    losses = [[point.loss for point in RunReport.load(tmp_path / run / "run.json").curve] for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
