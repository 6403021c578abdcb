"""Watching a model's backward pass: what every linear module saw and what pulled on it, one matrix at a time.

A module's output passes through an identity whose backward hands over the module's inputs and the gradient of its outputs
(observe.py).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from planner.modules.fused_experts import expert_sites, expert_weight, fused_parts, run_experts
from planner.modules.linear import dense_weight
from planner.sensitivity.observe import Observe
from planner.sensitivity.report import STATISTICS
from planner.sensitivity.statistics import EVERY, gradient_statistics, squared_norm, squared_norms


class Recorder:
    """Gradient statistics per example and site, and how tokens were routed, gathered batch by batch."""

    def __init__(self, linears: Mapping[str, nn.Module], experts: Mapping[str, nn.Module]) -> None:
        """Prepare to watch some linear modules and some modules of routed experts, both by name."""
        self._linears, self._experts = linears, experts
        self._batches: list[dict[str, Tensor]] = []
        self._usage: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = []
        self._mask: Tensor | None = None
        self._learned: Tensor | None = None
        self._examples = self._before = 0

    def begin(self, examples: int, mask: Tensor | None, learned: Tensor | None = None) -> None:
        """Announce a batch.

        Args:
            examples: how many.
            mask: (batch, tokens), which are no padding; None if all are.
            learned: (batch, tokens), whose outputs a label is compared with; None if all that are no padding count alike.
        """
        # Counted over all batches: which examples are taken in full must not depend on how they are batched.
        self._before += self._examples
        self._examples, self._mask, self._learned = examples, mask, learned
        self._batches.append({})
        self._usage.append({})

    def per_example(self, site: str) -> Tensor:
        """(examples, 4): a site's statistics in the order of `STATISTICS`, NaN where one was not taken.

        Where an expert saw no token of an example they are zero.
        """
        return torch.cat([batch[site] for batch in self._batches])

    def usage(self, experts: str) -> tuple[Tensor, Tensor, Tensor]:
        """Per expert of a module: share of learned tokens that chose it, mean weight over those, share of all tokens."""
        batches = zip(*(batch[experts] for batch in self._usage), strict=True)
        chosen, weight, of_all = (torch.stack(parts).sum(0) for parts in batches)
        # Where no token chose an expert its weight is 0 / 0, and NaN is the right answer.
        return chosen[:-1] / chosen[-1], weight / chosen[:-1], of_all[:-1] / of_all[-1]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch every backward pass until left; the model is then as it was."""
        hidden = {module: module.__dict__["forward"] for module in self._experts.values() if "forward" in module.__dict__}
        hooks = [module.register_forward_hook(partial(self._watch_linear, name)) for name, module in self._linears.items()]
        for name, module in self._experts.items():
            # Experts cannot be hooked, because their projections are slices of a tensor and no modules. The attribute hides the
            # class's forward until it is deleted, or one that somebody else put there (accelerate) until that is put back.
            module.forward = partial(self._run_experts, name, module)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module in self._experts.values():
                del module.forward
            for module, forward in hidden.items():
                module.forward = forward

    def _watch_linear(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        def take(x: Tensor, d: Tensor) -> None:
            # Some modules, such as shared experts, see (batch * tokens, d); examples lie one after the other in either form.
            x_BTI, d_BTO = (part.reshape(self._examples, -1, part.shape[-1]) for part in (x, d))
            rows = torch.full((self._examples, len(STATISTICS)), torch.nan, dtype=torch.float64)
            # Before the loop, and for all: examples are cheaper together.
            rows[:, 0] = squared_norms(x_BTI, d_BTO).cpu()
            full = [example for example in range(self._examples) if self._in_full(example)]
            if full:  # or a quantised weight would be dequantised for nothing
                weight = dense_weight(module, torch.promote_types(x.dtype, torch.float32))
                for example in full:
                    rows[example] = gradient_statistics(_working(x_BTI[example]), _working(d_BTO[example]), weight).cpu()
            self._batches[-1][name] = rows

        # Detached: the values are wanted, and no second path for gradients.
        watched: Tensor = Observe.apply(output, inputs[0].detach(), take)  # type: ignore[no-untyped-call]
        return watched

    def _statistics(self, example: int, x_TI: Tensor, d_TO: Tensor, weight: Callable[[], Tensor]) -> Tensor:
        if self._in_full(example):
            return gradient_statistics(x_TI, d_TO, weight())
        return torch.cat([squared_norm(x_TI, d_TO)[None], d_TO.new_full((len(STATISTICS) - 1,), torch.nan, dtype=torch.float64)])

    def _in_full(self, example: int) -> bool:
        return (self._before + example) % EVERY == 0

    def _run_experts(self, name: str, module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        for site in expert_sites(module):  # what no token reaches has no gradient
            nothing = torch.zeros(self._examples, len(STATISTICS), dtype=torch.float64)
            # But NaN where a statistic is not taken. setdefault, because checkpointing runs this again for a batch that is noted.
            nothing[[not self._in_full(example) for example in range(self._examples)], 1:] = torch.nan
            self._batches[-1].setdefault(f"{name}.{site}", nothing)
        # Assigned and not added, so that a layer that is computed again counts its tokens once.
        self._usage[-1][name] = self._count(module, index, weights.detach())
        return run_experts(module, hidden, index, weights, partial(self._watch_expert, name, module, len(hidden)))

    def _watch_expert(
        self, name: str, module: nn.Module, tokens: int, expert: int, tensor: str, token: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        # All examples are padded to one length, so a token's number says which example it is of. Numbers ascend, so that the rows
        # of an example lie together and can be split off.
        owner = token // (tokens // self._examples)
        counts = torch.bincount(owner, minlength=self._examples).tolist()

        def take(x: Tensor, d: Tensor) -> None:
            x, d = _working(x), _working(d)
            for part, outputs in fused_parts(module)[tensor].items():
                weight = partial(_expert_weight, module, expert, tensor, outputs, x.dtype)
                site = self._batches[-1][f"{name}.{expert}.{part}"]
                segments = zip(torch.split(x, counts), torch.split(d[:, outputs], counts), strict=True)
                for example, (x_TI, d_TO) in enumerate(segments):
                    if len(x_TI):
                        site[example] = self._statistics(example, x_TI, d_TO, weight).cpu()

        watched: Tensor = Observe.apply(y, x.detach(), take)  # type: ignore[no-untyped-call]
        return watched

    def _count(self, module: nn.Module, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Learned tokens per expert, followed by all learned tokens; the sum of each expert's routing weights; the first of all.

        Padding is left out of each.
        """
        real = self._mask.reshape(-1).bool() if self._mask is not None else torch.ones_like(index[:, 0], dtype=torch.bool)
        learned = self._learned.reshape(-1) if self._learned is not None else real
        experts = len(module.down_proj)  # type: ignore[arg-type]  # a 3-D tensor
        # Cut, because numbers beyond the experts mark tokens that other processes compute (expert parallelism).
        total = torch.bincount(index[learned].flatten(), weights[learned].flatten().double(), minlength=experts)[:experts]
        chosen, of_all = (
            torch.cat([torch.bincount(index[kept].flatten(), minlength=experts)[:experts], kept.sum()[None]]).double()
            for kept in (learned, real)
        )
        return chosen.cpu(), total.cpu(), of_all.cpu()


def _expert_weight(module: nn.Module, expert: int, tensor: str, outputs: slice, dtype: torch.dtype) -> Tensor:
    return expert_weight(module, expert, tensor, outputs).detach().to(dtype)


def _working(values: Tensor) -> Tensor:
    """In single precision or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
