"""Whole growths beside an independent simulation in plain Python: every event equal, in every form that can be chosen."""

import itertools

import pytest
import torch

from planner.modules.fused_experts import is_experts, router_of
from planner.modules.labelled import learned_positions
from tests import models
from tests.reference.growth import ReferenceGrowth
from tests.trainer.examples import uniform, with_ranks
from trainer import apply_plan
from trainer.layers.expert_lora import expert_loras
from trainer.layers.inject import router_state_of
from trainer.settings import GrowthSettings
from trainer.training.growth import Growth

FORMS = {
    "growth_handout": ("one-by-one", "one-pass"),
    "growth_share": ("picked", "softmax"),
    "saliency": ("paper", "released", "absolute"),
    "growth_reset": (False, True),
    "growth_tokens": ("learned", "all"),
}
STEPS, EVENTS = 10, 4


@pytest.fixture(scope="module")
def plan(tiny_olmoe):
    wanted = ("up_proj", "down_proj")
    return with_ranks(uniform(tiny_olmoe, "rank 5", max_experts=1), lambda site: (5,) if site.name.endswith(wanted) else ())


def simulate(plan, given, seed):
    """Ranks after every event, ours and the simulation's, layer by layer."""
    base = models.build("olmoe")
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = apply_plan(base, plan).train()
    settings = GrowthSettings(grow=True, growth_events=EVENTS, growth_per_event=0.5, **given)
    growth = Growth(model, plan, STEPS, settings, begin=0, seed=seed)
    state, seen = router_state_of(model), {}
    names = [name for name, module in model.named_modules() if is_experts(module)]
    for name in names:
        router, experts = router_of(model, name), model.get_submodule(name)
        router.register_forward_hook(lambda m, args, _out, name=name: seen.setdefault(name, {}).update(router=(m, args[0])))
        experts.register_forward_pre_hook(lambda _m, args, name=name: seen.setdefault(name, {}).update(chosen=args[1:]))
    references = {
        name: ReferenceGrowth(
            4, 20, handout=given["growth_handout"], share=given["growth_share"], saliency=given["saliency"],
            reset=given["growth_reset"], events=EVENTS, per_event=0.5,
        )
        for name in names
    }  # fmt: skip
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=3e-2)
    for step in range(1, STEPS + 1):
        ids = torch.randint(3, 400, (3, 6))
        mask = torch.ones_like(ids)
        mask[0, 4:] = 0
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :3] = -100  # a prompt
        state.learned_mask = learned_positions(labels)
        logits = model(input_ids=ids, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100).backward()
        if step < growth.schedule[-1] + 1:
            with torch.no_grad():
                for growing in growth.groups.values():
                    growing.observe()
            counts = (state.learned_mask if given["growth_tokens"] == "learned" else mask.bool()).flatten().tolist()
            for name in names:
                references[name].step(routing_of(seen[name], counts), factors_of(model, name))
        optimiser.step()
        optimiser.zero_grad()
        if step in growth.schedule:
            growth.event(growth.schedule.index(step), step)
            ours = {name: growth.groups[f"{name}.loraplan"].group.ranks for name in names}
            yield ours, {name: references[name].event() for name in names}


def routing_of(seen, counts):
    router, hidden = seen["router"]
    logits = (hidden.reshape(-1, hidden.shape[-1]).double() @ router.weight.double().T).tolist()
    index, weights = (part.detach().tolist() for part in seen["chosen"])
    return list(zip(logits, index, weights, counts, strict=True))


def factors_of(model, name):
    lora = expert_loras(model)[f"{name}.loraplan"]
    return {
        part: [
            tuple(
                side[expert].detach().double().tolist()
                for side in (lora.A[part], lora.A[part].grad, lora.B[part], lora.B[part].grad)
            )
            for expert in range(4)
        ]
        for part in lora.ranks
    }


def compare(plan, given, seeds):
    grew = set()
    for seed in seeds:
        for ours, theirs in simulate(plan, given, seed):
            assert ours == theirs, (given, seed)
            grew.add(tuple(map(tuple, ours.values())))
    assert len(grew) > len(seeds)  # ranks differ from event to event and from seed to seed


ALL = [dict(zip(FORMS, values, strict=True)) for values in itertools.product(*FORMS.values())]
EACH = [
    {name: (value if name == changed else choices[0]) for name, choices in FORMS.items()}
    for changed, values in FORMS.items()
    for value in values
]


@pytest.mark.parametrize("given", EACH, ids=str)
def test_every_event_equals_the_simulations(plan, given):
    compare(plan, given, range(2))


@pytest.mark.slow
@pytest.mark.parametrize("given", ALL, ids=str)
def test_every_event_equals_the_simulations_in_every_combination(plan, given):
    compare(plan, given, range(20))
