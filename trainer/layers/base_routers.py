"""The base model's own routers, trained beside the adapters of the experts that they choose among.

A trained router is kept in single precision and rounded to the base's precision in every pass: a step of training is often
smaller than the last bit of a half-precision weight. The rounding is a parametrization of torch, so the model stays as it is.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from planner.modules.fused_experts import router_of
from spectra import InputError
from trainer.layers.expert_lora import expert_loras


class _Rounded(nn.Module):
    """A weight in the precision that the base computes with; the gradient passes unchanged."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype)


def unfreeze_routers(model: nn.Module) -> None:
    """Make the routers of all layers with adapted routed experts trainable, in place.

    Raises:
        InputError: no routed expert is adapted, or a layer whose router is not found or is quantised.
    """
    loras = expert_loras(model)
    if not loras:
        raise InputError("`train_router`: the plan adapts no routed experts, so no router chooses among its adapters")
    for name in loras:
        experts = name.rpartition(".")[0]
        router = router_of(model, experts)
        if router is None or not all(one.is_floating_point() for one in router.parameters(recurse=False)):
            raise InputError(f"`train_router`: no router that can be trained is found beside {experts}")
        for part, values in list(router.named_parameters(recurse=False)):
            dtype = values.dtype
            wide = dtype if dtype == torch.float64 else torch.float32
            setattr(router, part, nn.Parameter(values.detach().to(wide)))
            # Unsafe only in that the two sides differ in precision, which is the point.
            parametrize.register_parametrization(router, part, _Rounded(dtype), unsafe=True)


def router_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """What `unfreeze_routers` made trainable."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], _Rounded):
            original = module.original
            assert isinstance(original, nn.Parameter)
            yield original


def settle_routers(model: nn.Module) -> None:
    """Give trained routers plain weights in the base's precision again, in place."""
    for module in list(model.modules()):
        for part in list(getattr(module, "parametrizations", {})):
            if isinstance(module.parametrizations[part][0], _Rounded):  # type: ignore[index]
                rounded = getattr(module, part).detach()
                # torch can leave a parametrized value behind only where it has the precision of the original.
                parametrize.remove_parametrizations(module, part, leave_parametrized=False)
                setattr(module, part, nn.Parameter(rounded, requires_grad=False))
