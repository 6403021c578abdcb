"""Model + Plan -> model with mixtures of LoRA experts, everything else frozen.

First `locate` finds every planned module and refuses what cannot be built; it changes nothing. Then `inject` builds.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from planner import Plan, PlannedSite, linear_shape
from planner.modules.fused_experts import expert_sites, is_experts
from spectra import InputError
from spectra.checkpoint.names import parse_name, projection_type, resolve, short_name
from spectra.core.distributed import is_main_process
from spectra.core.log import LOG
from trainer.initializers import INITIALIZERS
from trainer.layers.expert_lora import ExpertLora, adapt, expert_loras
from trainer.layers.mixture import MixtureLinear, mixtures
from trainer.layers.offset import subtract_start
from trainer.layers.router_state import RouterState
from trainer.settings import MixtureSettings

M = TypeVar("M", bound=nn.Module)
OF_EXPERTS = MixtureSettings().init  # the only initialisation of adapters on routed experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one planned site is in a model."""

    site: PlannedSite
    module: str
    """Live name of the linear module, or of the module that holds all routed experts of the layer."""
    expert: str | None = None
    """Place within the routed experts, such as `7.up_proj`; None for a linear module."""


def apply_plan(model: M, plan: Plan, settings: MixtureSettings | None = None) -> M:
    """Give every planned module its experts and freeze everything else, in place.

    Afterwards the plan's parameters are trainable and nothing else; unfreeze a task head yourself. Adapters on routed experts are
    padded with zeros that never change, so there more elements require a gradient than the plan counts. All sites are checked
    before any is touched. What was adapted is logged under `loraplan`.

    Args:
        model: any torch module whose planned sites are linear; prefixes added by a task head are seen through.
        plan: what to build.
        settings: how to build and route it.

    Returns:
        The same model.

    Raises:
        InputError: a site that matches no module, one that is not linear or has another shape, or one that cannot start as the
            settings say.
    """
    settings = settings or MixtureSettings()
    inject(model, locate(model, plan, settings), settings)
    if (trainable := trainable_parameters(model)) != plan.parameters:
        raise InputError(
            f"built {trainable} trainable parameters where the plan says {plan.parameters}; is a planned module shared?"
        )
    if plan.parameters and is_main_process():
        LOG.info(_summary(plan))
    return model


def locate(model: nn.Module, plan: Plan, settings: MixtureSettings | None = None) -> list[Placement]:
    """Find every site of a plan that gets adapters, changing nothing.

    Raises:
        InputError: a site that matches no module, one that is not linear or has another shape, or one that cannot start as the
            settings say.
    """
    modules = dict(model.named_modules())
    # Routed experts are no modules of their own: their sites are named inside the module that holds all of a layer's.
    fused = {f"{name}.{place}": name for name, module in modules.items() if is_experts(module) for place in expert_sites(module)}
    found = resolve((site.name for site in plan.sites), [*modules, *fused])
    placements = []
    for site in plan.sites:
        live = found.get(site.name)
        # Sites that get nothing are checked too: a plan lists the whole model, so a missing one means another model.
        _check(site, _shape_of(live, modules, fused), type(model).__name__)
        if live is not None and site.ranks:
            owner = fused.get(live)
            place = live.removeprefix(f"{owner}.") if owner is not None else None
            placements.append(Placement(site=site, module=owner or live, expert=place))
            # Refused here and not by the initialisation itself, which runs when other modules have been replaced already.
            _check_start(placements[-1], modules, settings or MixtureSettings())
    return placements


def inject(model: nn.Module, placements: list[Placement], settings: MixtureSettings) -> None:
    """Freeze a model and build the adapters where `locate` found room for them."""
    # First of all, because only what is made from here on is to be trainable.
    model.requires_grad_(False)
    state = RouterState(settings)
    # One number of torch's own stream, whatever the plan: every expert draws from a stream of its own that begins with it.
    seed = int(torch.randint(2**62, ()))
    lora_alpha = lora_alpha_of([placement.site for placement in placements], settings.alpha)
    for placement in placements:
        if placement.expert is None:
            _replace(model, placement, state, lora_alpha, seed)
    # The routed experts of a layer share tensors, whose size follows from the largest rank: collect a layer's sites first.
    routed: dict[str, dict[str, int]] = {}
    for placement in placements:
        if placement.expert is not None:
            routed.setdefault(placement.module, {})[placement.expert] = sum(placement.site.ranks)
    for name, ranks in routed.items():
        _adapt_experts(model.get_submodule(name), name, ranks, state, lora_alpha, seed)
    # On the whole model, because only its own forward is given the attention mask.
    model.register_forward_pre_hook(state.begin, with_kwargs=True)


def _replace(model: nn.Module, placement: Placement, state: RouterState, lora_alpha: float, seed: int) -> None:
    """Put a mixture in the place of a linear module."""
    site, (parent, _, child) = placement.site, placement.module.rpartition(".")
    base = model.get_submodule(placement.module)
    scaling = [lora_alpha / rank for rank in site.ranks]
    layer = MixtureLinear(base, site.ranks, site.top_k, scaling, state=state, site=site.name, seed=seed)
    with torch.no_grad():
        INITIALIZERS[state.settings.init].run(layer)
    subtract_start(layer, site.name)
    setattr(model.get_submodule(parent), child, layer)


def _adapt_experts(
    experts: nn.Module, name: str, ranks: Mapping[str, int], state: RouterState, lora_alpha: float, seed: int
) -> None:
    """Give one layer's fused experts their adapters."""
    by_part: dict[str, list[int]] = {}
    for place in expert_sites(experts):
        # Places come expert by expert, so each projection's list is in the order of the experts; not planned means rank 0.
        by_part.setdefault(place.partition(".")[2], []).append(ranks.get(place, 0))
    wanted = {part: given for part, given in by_part.items() if any(given)}
    adapt(experts, ExpertLora(experts, wanted, lora_alpha, state, name, seed))


def lora_alpha_of(sites: list[PlannedSite], alpha: float) -> float:
    """LoRA's numerator for all experts, each of which is scaled by it over its rank: alpha sqrt(mean rank of the plan's experts).

    Between plans that is rsLoRA's rule, alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732): a learning rate holds for small and
    large ones. Within a plan it is LoRA's own: under Adam every rank moves a module by as much, so that dividing by the rank lets
    all modules learn at one pace. Otherwise a plan would share out learning rates too (docs/experiments has what that costs).
    """
    ranks = [rank for site in sites for rank in site.ranks if rank]
    return alpha * math.sqrt(sum(ranks) / max(1, len(ranks)))


def trainable_parameters(model: nn.Module) -> int:
    """Trainable parameters, the padding of experts' adapters left out."""
    padded = {id(parameter) for lora in expert_loras(model).values() for parameter in lora.parameters()}
    plain = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in padded)
    return plain + sum(lora.parameters_planned for lora in expert_loras(model).values())


def router_state_of(model: nn.Module) -> RouterState | None:
    """The state that a model's adapters share; None if it has none."""
    states = [mixture.state for mixture in mixtures(model).values()] + [lora.state for lora in expert_loras(model).values()]
    return next((state for state in states if state is not None), None)


def _summary(plan: Plan) -> str:
    """One line: how many modules of which projections, and what they cost."""
    adapted = [site.name for site in plan.sites if site.ranks]
    counts = Counter(short_name(projection_type(name)) for name in adapted)
    layers = {(where.stack, where.layer) for name in adapted if (where := parse_name(name))}
    shown = ", ".join(f"{projection} x {count}" for projection, count in counts.items())
    return (
        f"adapted {len(adapted)} modules in {len(layers)} layers ({shown}); {plan.parameters:,} trainable parameters, as planned"
    )


def _shape_of(name: str | None, modules: Mapping[str, nn.Module], fused: Mapping[str, str]) -> object:
    """(d_out, d_in) of a linear module or of an expert's projection; the type of anything else; None if there is no such name."""
    if name is None:
        return None
    if name in fused:
        return expert_sites(modules[fused[name]])[name.removeprefix(fused[name] + ".")]
    return linear_shape(modules[name]) or type(modules[name]).__name__


def _check(site: PlannedSite, shape: object, model: str) -> None:
    if shape is None:
        raise InputError(f"site {site.name!r}: no such module in {model}")
    if isinstance(shape, str):
        raise InputError(f"site {site.name!r}: a {shape} in {model}, not a linear layer")
    if shape != site.shape:
        raise InputError(f"site {site.name!r}: planned for shape {list(site.shape)}, found {list(shape)}")  # type: ignore[call-overload]


def _check_start(placement: Placement, modules: Mapping[str, nn.Module], settings: MixtureSettings) -> None:
    """Refuse what the initialisation cannot do to a site."""
    site = placement.site
    if placement.expert is not None and len(site.ranks) > 1:
        raise InputError(f"site {site.name!r}: a routed expert takes one LoRA, not {len(site.ranks)}")
    if placement.expert is not None:
        if settings.init != OF_EXPERTS:
            raise InputError(f"site {site.name!r}: `init` {settings.init} starts linear modules, and this is a routed expert")
        return
    weight = modules[placement.module].weight
    assert isinstance(weight, Tensor)  # or it would not be linear
    if INITIALIZERS[settings.init].changes_base and not weight.is_floating_point():
        raise InputError(f"site {site.name!r}: `init` {settings.init} needs an unquantised base")
