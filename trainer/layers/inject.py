"""Model + Plan -> model with mixtures of LoRA experts, everything else frozen."""

import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from planner import Plan, PlannedSite, linear_shape
from planner.modules.fused_experts import expert_sites, is_experts
from spectra import InputError
from spectra.checkpoint.names import parse_name, projection_type, resolve, short_name
from spectra.core.distributed import is_main_process
from trainer.initializers.svd import start_from_svd
from trainer.layers.expert_lora import ExpertLora, adapt, expert_loras
from trainer.layers.mixture import MixtureLinear
from trainer.layers.router_state import RouterState
from trainer.settings import MixtureSettings

M = TypeVar("M", bound=nn.Module)


def apply_plan(model: M, plan: Plan, settings: MixtureSettings | None = None) -> M:
    """Give every planned module its experts and freeze everything else, in place.

    Afterwards exactly the plan's parameters are trainable; unfreeze a task head yourself. All sites are checked before any is
    touched. What was adapted is said on standard error.

    Args:
        model: any torch module whose planned sites are linear; prefixes added by a task head are seen through.
        plan: what to build.
        settings: how to build and route it.

    Returns:
        The same model.

    Raises:
        InputError: a site that matches no module, one that is not linear or has another shape.
    """
    modules = dict(model.named_modules())
    fused = {f"{name}.{site}": name for name, module in modules.items() if is_experts(module) for site in expert_sites(module)}
    found = resolve((site.name for site in plan.sites), [*modules, *fused])
    routes = RouterState(settings or MixtureSettings())
    for site in plan.sites:
        _check(site, _shape_of(found.get(site.name), modules, fused), type(model).__name__)
        if site.ranks and found[site.name] in fused and routes.settings.init == "svd":
            raise InputError(
                f"site {site.name!r}: --init svd starts linear modules, and this is a routed expert; use --init kaiming"
            )
    model.requires_grad_(False)
    lora_alpha = lora_alpha_of(plan, routes.settings.alpha)
    for site in plan.sites:
        if site.ranks and found[site.name] not in fused:
            _replace(modules, found[site.name], site, routes, lora_alpha)
    for name in dict.fromkeys(fused.values()):
        _adapt_experts(name, modules[name], {found[site.name]: site for site in plan.sites}, routes, lora_alpha)
    model.register_forward_pre_hook(routes.begin, with_kwargs=True)
    if (trainable := trainable_parameters(model)) != plan.parameters:
        raise InputError(
            f"built {trainable} trainable parameters where the plan says {plan.parameters}; is a planned module shared?"
        )
    if is_main_process():
        sys.stderr.write(_summary(plan) + "\n")
    return model


def trainable_parameters(model: nn.Module) -> int:
    """Trainable parameters, the padding of experts' adapters left out."""
    padded = {id(parameter) for lora in expert_loras(model).values() for parameter in lora.parameters()}
    plain = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in padded)
    return plain + sum(lora.parameters_planned for lora in expert_loras(model).values())


def lora_alpha_of(plan: Plan, alpha: float) -> float:
    """What every expert's update is multiplied with, over its rank: alpha sqrt(mean rank of the plan's experts).

    Between plans that is rsLoRA's rule, alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732): a learning rate holds for small and
    large ones. Within a plan it is LoRA's own: under Adam every rank moves a module by as much, so that dividing by the rank lets
    all modules learn at one pace. Otherwise a plan would share out learning rates too (docs/experiments.md has what that costs).
    """
    ranks = [rank for site in plan.sites for rank in site.ranks if rank]
    return alpha * math.sqrt(sum(ranks) / max(1, len(ranks)))


def _replace(modules: Mapping[str, nn.Module], name: str, site: PlannedSite, routes: RouterState, lora_alpha: float) -> None:
    layer = _mixture(modules[name], site, routes, lora_alpha)
    parent, _, child = name.rpartition(".")
    setattr(modules[parent], child, layer)
    if routes.settings.init == "svd":
        start_from_svd(layer, site.name)


def _adapt_experts(
    name: str, experts: nn.Module, sites: Mapping[str, PlannedSite], routes: RouterState, lora_alpha: float
) -> None:
    """Give one layer's fused experts their adapters, if the plan has any."""
    ranks: dict[str, list[int]] = {}
    for place_ in expert_sites(experts):
        part = place_.partition(".")[2]
        site = sites.get(f"{name}.{place_}")
        if site is not None and len(site.ranks) > 1:
            raise InputError(f"site {site.name!r}: a routed expert takes one LoRA, not {len(site.ranks)}")
        ranks.setdefault(part, []).append(sum(site.ranks) if site is not None else 0)
    wanted = {part: given for part, given in ranks.items() if any(given)}
    if wanted:
        lora = ExpertLora(experts, wanted, lora_alpha)
        lora.routes = routes
        adapt(experts, lora)


def _mixture(base: nn.Module, site: PlannedSite, routes: RouterState, lora_alpha: float) -> MixtureLinear:
    scaling = [lora_alpha / rank for rank in site.ranks]
    return MixtureLinear(base, site.ranks, site.top_k, scaling, routes=routes, site=site.name)


def _summary(plan: Plan) -> str:
    """One line: how many modules of which kinds, and what they cost."""
    adapted = [site.name for site in plan.sites if site.ranks]
    kinds = Counter(short_name(projection_type(name)) for name in adapted)
    layers = {(where.stack, where.layer) for name in adapted if (where := parse_name(name))}
    shown = ", ".join(f"{kind} x {count}" for kind, count in kinds.items())
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


def mixtures(model: nn.Module) -> dict[str, MixtureLinear]:
    """The adapted modules by their name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureLinear)}


def router_state_of(model: nn.Module) -> RouterState | None:
    """What a model's mixtures share; None if it has none."""
    return next((mixture.routes for mixture in mixtures(model).values()), None)
