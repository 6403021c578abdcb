"""`dense`: every expert for every token (HydraLoRA, arXiv 2404.19245; LoRAMoE, arXiv 2312.09979)."""

from typing import TYPE_CHECKING

from spectra.core.methods import NoSettings
from trainer.routers.gates import Gates, RouterContext

if TYPE_CHECKING:
    from torch import Tensor


def dense(logits_TE: "Tensor", context: RouterContext, settings: NoSettings) -> Gates:
    """Softmax over all experts, whatever k."""
    gates = logits_TE.softmax(-1)
    return Gates(gates, gates)
