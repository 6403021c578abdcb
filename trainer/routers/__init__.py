"""The table of routers: logits in, one gate per token and expert out. A new router is one file and one line here.

The folder loads no torch, so that the command line can offer what is in the table.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spectra.core.methods import Method
from trainer.routers.constant import constant
from trainer.routers.dense import dense
from trainer.routers.gates import Gates, RouterContext
from trainer.routers.sira import SiraSettings, sira
from trainer.routers.topk import topk

if TYPE_CHECKING:
    from torch import Tensor

Router = Callable[["Tensor", RouterContext, Any], Gates]
"""Logits (T, E), their context and the router's own settings in, the gates out."""

ROUTERS: dict[str, Method[Router]] = {
    "topk": Method(topk),
    "sira": Method(sira, SiraSettings),
    "dense": Method(dense),
    "constant": Method(constant),
}

__all__ = ["ROUTERS", "Gates", "Router", "RouterContext"]
