"""DR-LoRA's growth: arithmetic against references, and whole runs."""

import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import planner
from planner.modules.fused_experts import is_experts
from spectra import InputError, open_checkpoint
from tests.reference.growth import reference_growth, reference_importance
from trainer import MixtureLinear, TrainSettings, evaluate, load_adapters, train
from trainer.layers.expert_lora import ExpertLora, adapt, expert_loras
from trainer.report import GrowthHistory
from trainer.training.growth import EVENTS, _Growing, allocate_quota, schedule
from trainer.training.growth_groups import RoutedGroup
from trainer.views.plots import draw


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 6)), min_size=1, max_size=12), st.integers(0, 40), st.integers(1, 9),
    st.integers(1, 5),
)  # fmt: skip
def test_handing_out_equals_the_formula_step_by_step(experts, quota, most, per_event):
    worth, ranks = zip(*experts, strict=True)
    ranks = [min(rank, most) for rank in ranks]
    ours = allocate_quota(worth, ranks, quota, most=most, per_event=per_event)
    assert ours == reference_growth(worth, ranks, quota, most, per_event)
    assert 0 <= sum(ours) - sum(ranks) <= quota


@settings(max_examples=1000, deadline=None)
@given(st.integers(1, 16), st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_every_schedule_ends_on_its_target(experts, first, room, random):
    most = first + room
    target = random.randint(experts * first, experts * most)
    ranks, limit = [first] * experts, max(1, math.ceil(0.1 * room))
    for number in range(EVENTS):
        way = experts * first + (target - experts * first) * (number + 1) // EVENTS
        worth = [random.random() for _ in range(experts)]
        last = number == EVENTS - 1
        ranks = allocate_quota(worth, ranks, way - sum(ranks), most=most, per_event=most if last else limit)
        assert sum(ranks) <= way
        assert max(ranks) <= most
    assert sum(ranks) == target


def test_the_schedule_leaves_an_interval_at_both_ends():
    steps = schedule(3750)
    assert len(steps) == EVENTS
    assert steps[0] > 112
    assert 3750 - steps[-1] >= steps[1] - steps[0]
    with pytest.raises(InputError, match="--grow needs at least 21 steps to hold its 18 events; the run has 10"):
        schedule(10)


SIZE = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 24, "num_experts_per_tok": 2, "num_experts": 4, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tiny_llama, tmp_path_factory):
    """A tiny OLMoE with the tiny Llama's tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("olmoe")
    transformers.AutoModelForCausalLM.from_config(transformers.OlmoeConfig(**SIZE)).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plan(checkpoint):
    """Rank 4 on the up and down projections of every expert: growth goes from 2 to at most 8."""
    model = open_checkpoint(checkpoint)
    whole = planner.allocate(budget="rank 4", strategy="uniform", max_experts=1, model=model)
    sites = tuple(
        site
        if site.name.endswith(("up_proj", "down_proj")) and site.routed
        else site.model_copy(update={"ranks": (), "top_k": 0})
        for site in whole.sites
    )
    size = sum(site.parameters for site in sites)
    budget = whole.budget.model_copy(update={"spent": size, "parameters": size})
    return planner.Plan.model_validate(whole.model_copy(update={"sites": sites, "budget": budget}).model_dump())


def experts_with_room():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.OlmoeConfig(**SIZE))
    experts = next(module for module in model.modules() if is_experts(module))
    lora = ExpertLora(experts, {"up_proj": [4] * 4, "down_proj": [4] * 4}, lora_alpha=4.0)
    adapt(experts, lora)
    return experts, lora, _Growing(RoutedGroup("layer.loraplan", lora), "paper")


def test_importance_and_share_equal_the_formula_over_several_steps():
    experts, lora, layer = experts_with_room()
    assert (layer.group.first, layer.group.most, lora.ranks["up_proj"]) == (2, 8, [2, 2, 2, 2])
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2)
    seen, share = [], torch.full((4,), 0.25)
    experts.train()
    for _ in range(4):
        hidden, weights = torch.randn(12, 32), torch.rand(12, 2)
        index = torch.stack([torch.randperm(4)[:2] for _ in range(12)])
        experts(hidden, index, weights).square().sum().backward()
        seen.append(
            [
                side.detach().clone()
                for side in (lora.A["up_proj"], lora.A["up_proj"].grad, lora.B["up_proj"], lora.B["up_proj"].grad)
            ]
        )
        used = torch.stack([weights[index == expert].sum() for expert in range(4)])
        share = 0.9 * share + 0.1 * used / used.sum()
        with torch.no_grad():
            layer.observe()
        optimiser.step()
        optimiser.zero_grad()
    torch.testing.assert_close(layer.share, share)
    for expert in range(4):
        steps = [[side[expert].tolist() for side in step] for step in seen]
        expected = reference_importance(steps)
        assert layer.importance["up_proj"][expert].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-12)
    mean = [
        torch.stack([layer.importance[part][expert, :2].mean() for part in ("up_proj", "down_proj")]).mean()
        for expert in range(4)
    ]
    assert layer.worth() == pytest.approx([float(share[expert] * mean[expert]) for expert in range(4)], rel=1e-4)


def test_new_directions_change_nothing_and_train_from_a_clean_start():
    experts, lora, layer = experts_with_room()
    for part in lora.ranks:
        torch.nn.init.normal_(lora.B[part].data[:, :, :2])
    hidden, weights = torch.randn(6, 32), torch.rand(6, 2)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(6)])
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2, weight_decay=0.1)
    experts(hidden, index, weights).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    before = experts(hidden, index, weights)
    layer.grow(3, 2)
    assert sum(layer.group.ranks) == 11
    torch.testing.assert_close(experts(hidden, index, weights), before, rtol=0, atol=0)
    grown = next(expert for expert, rank in enumerate(layer.group.ranks) if rank > 2)
    for state in (optimiser.state[lora.A["up_proj"]], optimiser.state[lora.B["up_proj"]]):
        moments = state["exp_avg"]
        side = moments[grown, 2:] if moments is optimiser.state[lora.A["up_proj"]]["exp_avg"] else moments[grown, :, 2:]
        assert side.abs().sum() == 0
    assert lora.A["up_proj"][grown, 2].abs().sum() > 0


LONG = TrainSettings(max_steps=24, batch_size=8, max_length=32, learning_rate=2e-2, precision="fp32", grow=True)


@pytest.fixture(scope="module")
def grown(checkpoint, plan, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown") / "run"
    train(plan, checkpoint, sentences, folder, LONG)
    return folder


def test_a_run_grows_to_exactly_the_plans_size(grown, plan):
    final = planner.Plan.load(grown / "plan.json")
    assert final.parameters == plan.parameters
    assert final.strategy == "dr-lora-grown"
    ranks = {site.ranks for site in final.sites if site.ranks}
    assert len(ranks) > 1
    history = GrowthHistory.load(grown / "growth.json")
    assert len(history.events) == EVENTS
    totals = [[sum(ranks) for ranks in event.ranks.values()] for event in history.events]
    assert totals == sorted(totals)
    assert totals[-1] == [16, 16]
    assert all(sum(share) == pytest.approx(1, abs=1e-4) for event in history.events for share in event.shares.values())


def test_the_grown_run_comes_back_and_its_plan_trains_statically(grown, checkpoint, sentences, tmp_path):
    result = evaluate(grown, sentences)
    assert result.trained.loss < result.untrained.loss
    ended = GrowthHistory.load(grown / "growth.json").events[-1].ranks
    assert {name: tuple(lora.ranks["up_proj"]) for name, lora in expert_loras(load_adapters(grown)).items()} == ended
    drawn = list(draw([grown], tmp_path / "plots"))
    assert [path.name for path in drawn if "growth" in path.name] == [
        f"run-growth-{what}.{kind}" for what in ("ranks", "shares", "saliency") for kind in ("png", "svg")
    ]
    final = planner.Plan.load(grown / "plan.json")
    still = train(final, checkpoint, sentences, tmp_path / "static", LONG.model_copy(update={"grow": False}))
    assert still.adapter_parameters == final.parameters
    stored = load_file(tmp_path / "static" / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in stored.items()} == {
        name: tuple(t.shape) for name, t in load_file(grown / "adapter_model.safetensors").items()
    }


def assert_same_bits_when_cut(whole, plan, model, data, settings, folder):
    """Kill the run in the middle of its growth, go on, and compare with one that nobody disturbed."""

    def kill(step, _steps, _loss):
        if step == 13:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(plan, model, data, folder, settings, progress=kill)
    train(plan, model, data, folder, settings, resume=True)
    for name in ("adapter_model.safetensors", "plan.json", "growth.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_an_interrupted_growth_goes_on_to_the_same_bits(grown, checkpoint, plan, sentences, tmp_path):
    assert_same_bits_when_cut(grown, plan, checkpoint, sentences, LONG, tmp_path / "cut")


@pytest.mark.parametrize("saliency", ["paper", "released"])
def test_mixtures_on_a_dense_base_grow_too(tiny_llama, sentences, tmp_path, saliency):
    dense = planner.allocate(
        budget="30k", strategy="uniform", expert_rank=4, max_experts=3, max_rank=12, model=open_checkpoint(tiny_llama)
    )
    assert {site.ranks for site in dense.sites} == {(4, 4, 4)}
    chosen = LONG.model_copy(update={"saliency": saliency})
    train(dense, tiny_llama, sentences, tmp_path / "run", chosen)
    final = planner.Plan.load(tmp_path / "run" / "plan.json")
    assert final.parameters == dense.parameters
    assert {sum(site.ranks) for site in final.sites} == {12}
    assert len({site.ranks for site in final.sites}) > 1
    result = evaluate(tmp_path / "run", sentences)  # ends with a comparison of logits, so compaction kept them
    assert result.trained.loss < result.untrained.loss
    assert_same_bits_when_cut(tmp_path / "run", dense, tiny_llama, sentences, chosen, tmp_path / "cut")


def test_compaction_keeps_the_function():
    torch.manual_seed(0)
    layer = MixtureLinear(torch.nn.Linear(12, 10).double(), [4, 4, 4], 2, scaling=[2.0, 2.0, 2.0])
    assert layer.reserve_rank(8, 2) == 8
    for expert, rank in enumerate((5, 2, 8)):
        layer.start(expert, slice(2, rank))
        torch.nn.init.normal_(layer.B.data[:, 8 * expert : 8 * expert + rank])
    x = torch.randn(6, 12, dtype=torch.float64)
    before = layer(x)
    layer.compact((5, 2, 8), lora_alpha=3.0)
    assert layer.scalings == pytest.approx([3 / rank for rank in (5, 2, 8)])
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    assert tuple(layer.A.shape) == (15, 12)


def test_what_cannot_grow_is_refused(checkpoint, uniform_plan, minilm, small_corpus, plan, sentences, tmp_path):
    with pytest.raises(InputError, match="--grow: the plan 'none' adapts neither routed experts nor mixtures"):
        train(uniform_plan.without_adapters(), minilm, small_corpus[0], tmp_path / "run", LONG)
    low = planner.allocate(budget="rank 1", strategy="uniform", max_experts=1, model=open_checkpoint(checkpoint))
    with pytest.raises(InputError, match="a mean rank of 1 leaves no room"):
        train(low, checkpoint, sentences, tmp_path / "run", LONG)
    with pytest.raises(InputError, match="--grow needs at least 21 steps"):
        train(plan, checkpoint, sentences, tmp_path / "run", LONG.model_copy(update={"max_steps": 8}))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="--grow keeps no best adapters on the way"):
        train(plan, checkpoint, sentences, tmp_path / "run", LONG, evaluation=sentences)
