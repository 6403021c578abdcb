"""Model + Plan -> model with mixtures of LoRA experts, everything else frozen."""

import math
import sys
from collections import Counter
from typing import TypeVar

from torch import nn

from planner import Plan, PlannedSite, linear_shape
from spectra import InputError
from spectra.ranks import is_first
from spectra.sites import place, projection_type, resolve, short
from trainer.mixture import MixtureLinear
from trainer.reports import MixtureSettings
from trainer.routing import Routes
from trainer.svd import start_from_svd

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
    found = resolve((site.name for site in plan.sites), list(modules))
    for site in plan.sites:
        _check(site, modules[found[site.name]] if site.name in found else None, type(model).__name__)
    model.requires_grad_(False)
    routes = Routes(settings or MixtureSettings())
    for site in plan.sites:
        if site.ranks:
            parent, _, child = found[site.name].rpartition(".")
            layer = _mixture(modules[found[site.name]], site, routes)
            setattr(modules[parent], child, layer)
            if routes.settings.init == "svd":
                start_from_svd(layer, site.name)
    model.register_forward_pre_hook(routes.begin, with_kwargs=True)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable != plan.parameters:
        raise InputError(
            f"built {trainable} trainable parameters where the plan says {plan.parameters}; is a planned module shared?"
        )
    if is_first():
        sys.stderr.write(_summary(plan) + "\n")
    return model


def _mixture(base: nn.Module, site: PlannedSite, routes: Routes) -> MixtureLinear:
    # rsLoRA's rule (Kalajdzievski, arXiv 2312.03732): alpha / sqrt(rank) keeps the update's size steady as the rank grows.
    scaling = [routes.settings.alpha / math.sqrt(rank) for rank in site.ranks]
    return MixtureLinear(base, site.ranks, site.top_k, scaling, routes=routes, site=site.name)


def _summary(plan: Plan) -> str:
    """One line: how many modules of which kinds, and what they cost."""
    adapted = [site.name for site in plan.sites if site.ranks]
    kinds = Counter(short(projection_type(name)) for name in adapted)
    layers = {(where.stack, where.layer) for name in adapted if (where := place(name))}
    shown = ", ".join(f"{kind} x {count}" for kind, count in kinds.items())
    return (
        f"adapted {len(adapted)} modules in {len(layers)} layers ({shown}); {plan.parameters:,} trainable parameters, as planned"
    )


def _check(site: PlannedSite, module: nn.Module | None, model: str) -> None:
    if module is None:
        raise InputError(f"site {site.name!r}: no such module in {model}")
    shape = linear_shape(module)
    if shape is None:
        raise InputError(f"site {site.name!r}: a {type(module).__name__} in {model}, not a linear layer")
    if shape != site.shape:
        raise InputError(f"site {site.name!r}: planned for shape {list(site.shape)}, found {list(shape)}")


def mixtures(model: nn.Module) -> dict[str, MixtureLinear]:
    """The adapted modules by their name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureLinear)}


def routes_of(model: nn.Module) -> Routes | None:
    """What a model's mixtures share; None if it has none."""
    return next((mixture.routes for mixture in mixtures(model).values()), None)
