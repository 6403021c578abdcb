"""Notes on routers: collapsed, overflowing, and experts whose adapters are still at their start."""

import math

import torch

from tests import models
from tests.trainer.examples import uniform, with_ranks
from trainer import apply_plan
from trainer.layers.expert_lora import expert_loras
from trainer.layers.mixture import mixtures
from trainer.report import RouterHealth
from trainer.training.routing_notes import collapsed, idle_experts, overflowing, told_idle


def test_experts_of_a_mixture_that_got_no_gradient_are_named(llama_plan):
    model = apply_plan(models.build("llama"), llama_plan)
    everything = idle_experts(model)
    assert len(everything) == sum(len(mixture.ranks) for mixture in mixtures(model).values())
    with torch.no_grad():
        for mixture in mixtures(model).values():
            mixture.B.fill_(1.0)
        name, mixture = next((name, mixture) for name, mixture in mixtures(model).items() if len(mixture.ranks) > 1)
        mixture.B[:, mixture.ranks[0] :] = 0
    assert idle_experts(model) == tuple(f"{name}, expert {expert}" for expert in range(1, len(mixture.ranks)))


def test_a_routed_expert_learned_nothing_if_none_of_its_projections_did(tiny_olmoe):
    plan = with_ranks(uniform(tiny_olmoe, "rank 2", max_experts=1), lambda site: (2,) if site.routed else ())
    model = apply_plan(models.build("olmoe"), plan)
    with torch.no_grad():
        for lora in expert_loras(model).values():
            lora.B["up_proj"][:3] = 1.0
            lora.B["down_proj"][3, 0, 0] = 1.0
        next(iter(expert_loras(model).values())).B["down_proj"][3] = 0
    assert idle_experts(model) == ("model.layers.0.mlp.experts.3",)
    (note,) = told_idle(idle_experts(model), model)
    assert note == "1 of 8 experts learned nothing, their B is still zero: model.layers.0.mlp.experts.3"


def test_a_note_names_eight_and_counts_the_rest(llama_plan):
    model = apply_plan(models.build("llama"), llama_plan)
    idle = tuple(f"site {number}" for number in range(11))
    assert told_idle((), model) == ()
    assert told_idle(idle, model)[0].endswith("site 6; site 7, and 3 more")


def health(*shares, site="layers.0.q", dropped=0.0, unserved=0.0):
    known = {"entropy": 0.5, "effective_support": len(shares), "dropped": dropped, "unserved": unserved}
    return RouterHealth(site=site, shares=shares, **known)


def test_a_collapsed_router_is_a_note():
    base = health(0.99, 0.01, site="layers.0.mlp.experts").model_copy(update={"entropy": math.nan})
    (note,) = collapsed((health(0.01, 0.98, 0.01), health(0.05, 0.95, site="layers.1.q"), base))
    assert note.startswith("the router of layers.0.q has collapsed: expert 1 carries 98%; a `balance_loss` of 0.01 or `router`")


def test_a_limit_that_turns_most_picks_away_is_a_note():
    tight, loose = health(0.5, 0.5, dropped=0.9, unserved=0.8), health(0.5, 0.5, dropped=0.1)
    (note,) = overflowing((tight, loose))
    assert note.startswith(
        "capacity limits turned away 50.0% of picks, and 40.0% of tokens got no expert at all; a larger `capacity`"
    )
    assert overflowing((loose,)) == overflowing(()) == overflowing((health(1.0, dropped=math.nan, unserved=math.nan),)) == ()
