"""ExpertLora: a LoRA of its own rank on every projection of every routed expert of a mixture-of-experts base model.

transformers 5 keeps a layer's experts in 3-D tensors and runs them over tokens sorted by expert. Ours rides on the same order:
for each projection two more grouped products, x A_e^T and z B_e^T. Ranks differ by expert; in memory they are padded with zeros
to the layer's largest, a multiple of 8, because grouped products cannot be ragged in two directions. Padding needs no mask:
where a row of A and a column of B are both zero, both gradients are zero, and AdamW leaves them there, weight decay included. On
disk there is no padding.

Shapes: S token-expert pairs sorted by expert, E experts, r padded rank.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from planner.modules.fused_experts import expert_sites, expert_weight, fused_parts
from spectra import InputError
from trainer.layers.router_state import RouterState

NAME = "loraplan"  # of our entry in transformers' table of experts' forwards, and of the adapters inside an experts module
MULTIPLE = 8  # what grouped products need in half precision


class ExpertLora(nn.Module):
    """The adapters of one layer's experts.

    Attributes:
        A: projection -> (E, r, d_in), Kaiming-uniform in the first ranks[e] rows of expert e, zero below.
        B: projection -> (E, d_out, r), zero.
        ranks: projection -> one rank per expert.
        scale: projection -> (E,), what an expert's update is multiplied with.
    """

    def __init__(self, experts: Any, ranks: Mapping[str, Sequence[int]], lora_alpha: float, reserve: int = 0) -> None:
        """Make adapters that change nothing yet.

        Args:
            experts: a transformers module that holds all experts of a layer.
            ranks: projection (`gate_proj`, `up_proj`, `down_proj`) -> one rank per expert; projections left out get none.
            lora_alpha: an expert of rank r is scaled by lora_alpha / r.
            reserve: rank to make room for; ranks can then grow up to it.

        Raises:
            InputError: a projection that the experts do not have, or ranks for another number of experts.
        """
        super().__init__()
        self.before: str | None = None
        self.routes: RouterState | None = None
        self.counting = False
        """Whether to note how tokens are routed, which growth needs."""
        self._routed: Tensor | None = None
        shapes = expert_sites(experts)
        count = len(experts.down_proj)
        like = experts.down_proj
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        self.ranks: dict[str, list[int]] = {}
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for part, given in ranks.items():
            if f"0.{part}" not in shapes or len(given) != count:
                raise InputError(
                    f"{len(given)} ranks for {part}, but the layer has {count} experts of {', '.join(_parts(experts))}"
                )
            if not max(given) and not reserve:
                continue
            d_out, d_in = shapes[f"0.{part}"]
            padded = -(-max(*given, reserve) // MULTIPLE) * MULTIPLE
            self.ranks[part] = list(given)
            self.A[part] = nn.Parameter(torch.zeros(count, padded, d_in, dtype=dtype, device=like.device))
            self.B[part] = nn.Parameter(torch.zeros(count, d_out, padded, dtype=dtype, device=like.device))
            scale = torch.tensor([lora_alpha / rank if rank else 0.0 for rank in given], dtype=torch.float64)
            self.register_buffer(f"scale_{part}", scale.to(like.device, dtype), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A Kaiming-uniform with a = sqrt 5 (bounds 1 / sqrt(d_in)) where there is rank, all else zero."""
        for part, ranks in self.ranks.items():
            self.A[part].zero_()
            self.B[part].zero_()
            for expert, rank in enumerate(ranks):
                self.start(part, expert, slice(0, rank))

    @torch.no_grad()
    def start(self, part: str, expert: int, rows: slice, generator: torch.Generator | None = None) -> None:
        """Give some rows of A random values; with B zero there, nothing changes yet."""
        bound = 1 / math.sqrt(self.A[part].shape[-1])
        new = self.A[part][expert, rows]
        new.copy_(bound * (2 * torch.rand(new.shape, generator=generator) - 1))

    def scale(self, part: str) -> Tensor:
        """(E,)."""
        found: Tensor = getattr(self, f"scale_{part}")
        return found

    @torch.no_grad()
    def reserve_rank(self, most: int, first: int) -> int:
        """Start over with rank `first` everywhere and room for `most`; one scale for all, that of the mean rank planned.

        Returns:
            The rank that can be reached: `most`, or less where a matrix is smaller.
        """
        for part, ranks in self.ranks.items():
            count, _, d_in = self.A[part].shape
            d_out = self.B[part].shape[1]
            most = min(most, d_in, d_out)
            padded = -(-most // MULTIPLE) * MULTIPLE
            largest = ranks.index(max(ranks))
            lora_alpha = float(self.scale(part)[largest]) * ranks[largest]
            self.scale(part).fill_(lora_alpha / (sum(ranks) / count))
            self.ranks[part] = [first] * count
            self.A[part] = nn.Parameter(self.A[part].new_zeros(count, padded, d_in))
            self.B[part] = nn.Parameter(self.B[part].new_zeros(count, d_out, padded))
        self.reset_parameters()
        self.counting = True
        return most

    @torch.no_grad()
    def settle_scale(self, lora_alpha: float) -> None:
        """Scale each expert as its rank asks, lora_alpha / rank, and B so that nothing changes."""
        for part, ranks in self.ranks.items():
            wanted = self.scale(part).new_tensor([lora_alpha / rank if rank else 0.0 for rank in ranks])
            held = self.scale(part)
            self.B[part].mul_(torch.where(wanted > 0, held / wanted.clamp(min=1e-30), 1.0)[:, None, None])
            held.copy_(wanted)

    def count(self, expert_S: Tensor, weight_S: Tensor) -> None:
        """Add one pass's routing weights; padding is left out."""
        with torch.no_grad():
            seen = torch.zeros(len(self.scale(next(iter(self.ranks)))), dtype=weight_S.dtype, device=weight_S.device)
            seen = seen.index_add(0, expert_S, weight_S.detach())
            self._routed = seen if self._routed is None else self._routed + seen

    def take_routing(self) -> Tensor | None:
        """Sum of each expert's routing weights since the last call, (E,)."""
        found, self._routed = self._routed, None
        return found

    @property
    def parameters_planned(self) -> int:
        """Trainable parameters without padding."""
        return sum(sum(ranks) * (self.A[part].shape[-1] + self.B[part].shape[1]) for part, ranks in self.ranks.items())

    def updates(self, parts: Sequence[str], x_SI: Tensor, expert_S: Tensor, offsets_E: Tensor) -> dict[str, Tensor]:
        """What the adapters of projections with the same input add, (S, d_out) each; the input is read once for all of them."""
        A_ERI = torch.cat([self.A[part] for part in parts], dim=1) if len(parts) > 1 else self.A[parts[0]]
        both_SR = grouped(x_SI, A_ERI.to(x_SI.dtype).transpose(1, 2), offsets_E)
        found = {}
        for part, z_SR in zip(parts, torch.split(both_SR, [self.A[part].shape[1] for part in parts], dim=1), strict=True):
            scaled_SR = z_SR * self.scale(part).to(x_SI.dtype)[expert_S, None]
            found[part] = grouped(scaled_SR, self.B[part].to(x_SI.dtype).transpose(1, 2), offsets_E)
        return found

    def unpadded(self) -> dict[str, Tensor]:
        """Every projection's A as (sum of ranks, d_in) and B as (d_out, sum of ranks), experts in order, no padding."""
        found = {}
        for part, ranks in self.ranks.items():
            found[f"{part}.A"] = torch.cat([self.A[part][expert, :rank] for expert, rank in enumerate(ranks)]).detach()
            found[f"{part}.B"] = torch.cat([self.B[part][expert, :, :rank] for expert, rank in enumerate(ranks)], dim=1).detach()
        return found

    @torch.no_grad()
    def load_unpadded(self, unpadded: Mapping[str, Tensor]) -> None:
        """The way back."""
        for part, ranks in self.ranks.items():
            rows = torch.split(unpadded[f"{part}.A"], ranks)
            columns = torch.split(unpadded[f"{part}.B"], ranks, dim=1)
            for expert, rank in enumerate(ranks):
                self.A[part][expert, :rank] = rows[expert]
                self.B[part][expert, :, :rank] = columns[expert]

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return ", ".join(f"{part}: {sum(ranks)} ranks, {max(ranks)} at most" for part, ranks in self.ranks.items())


def _parts(experts: Any) -> list[str]:
    return [part for parts in fused_parts(experts).values() for part in parts]


def grouped(x_SI: Tensor, weight_EIO: Tensor, offsets_E: Tensor) -> Tensor:
    """Rows of group e times the matrix of expert e.

    Args:
        x_SI: sorted by expert.
        weight_EIO: one matrix per expert.
        offsets_E: where each group ends, int32.

    Returns:
        (S, O). A loop stands in where grouped products have no kernel: double precision, and old GPUs.
    """
    if x_SI.dtype == torch.float64 or not _has_kernel(x_SI.device):
        ends = offsets_E.tolist()
        starts = [0, *ends[:-1]]
        return torch.cat(
            [x_SI[start:end] @ weight_EIO[expert] for expert, (start, end) in enumerate(zip(starts, ends, strict=True))]
        )
    product: Tensor = _Contiguous.apply(nn.functional.grouped_mm(x_SI, weight_EIO.to(x_SI.dtype), offs=offsets_E))  # type: ignore[no-untyped-call]
    return product


class _Contiguous(torch.autograd.Function):
    """Identity whose gradient is contiguous: the kernel's backward takes no other, and interleaved gates send strided ones."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


def _has_kernel(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0):
        return True
    warnings.warn(f"{torch.cuda.get_device_name(device)} has no grouped products: experts run one by one, slowly", stacklevel=2)
    return False


def experts_forward(module: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The forward of a layer's experts with adapters: an entry of transformers' table of such functions.

    Args:
        module: the experts; their adapters are its child `loraplan`, if it has any.
        hidden: (tokens, d).
        index: (tokens, k), the chosen experts.
        weights: (tokens, k), their routing weights.
    """
    lora: ExpertLora | None = getattr(module, NAME, None)
    tokens, k = index.shape
    expert_S, order = torch.sort(index.reshape(-1), stable=True)
    counts = torch.bincount(expert_S, minlength=len(module.down_proj))
    offsets = counts.cumsum(0).to(torch.int32)
    if lora is not None and lora.counting and lora.training:
        token_mask = lora.routes.token_mask if lora.routes is not None else None
        kept = (
            torch.ones_like(weights)
            if token_mask is None or token_mask.numel() != tokens
            else token_mask.reshape(-1, 1).to(weights.dtype)
        )
        lora.count(index.reshape(-1), (weights * kept).reshape(-1))
    x = hidden[order // k]
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    with torch.autocast(x.device.type, enabled=False):  # grouped products know nothing of autocast
        x = x.to(dtype)
        up_tensor = "gate_up_proj" if module.has_gate else "up_proj"
        up = _projected(module, lora, up_tensor, x, expert_S, offsets)
        inner = module._apply_gate(up) if module.has_gate else module.act_fn(up)
        out = _projected(module, lora, "down_proj", inner, expert_S, offsets)
    if module.has_post_expert_norm:
        out = module.post_expert_norm(out)
    out = out * weights.reshape(-1)[order, None]
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return out[back].view(tokens, k, -1).sum(1).to(hidden.dtype)


def _projected(module: Any, lora: ExpertLora | None, tensor: str, x: Tensor, expert_S: Tensor, offsets: Tensor) -> Tensor:
    stored = getattr(module, tensor)
    y = grouped(x, stored if module.is_transposed else stored.transpose(1, 2), offsets)
    if module.has_bias:
        y = y + getattr(module, f"{tensor}_bias")[expert_S]
    if lora is None:
        return y
    parts = fused_parts(module)[tensor]
    adapted = [part for part in parts if part in lora.ranks]
    if not adapted:
        return y
    added = lora.updates(adapted, x, expert_S, offsets)
    if len(parts) == 1:
        return y + added[adapted[0]]
    gate, up = (added.get(part, torch.zeros_like(added[adapted[0]])) for part in parts)
    return y + (torch.cat([gate, up], dim=-1) if module.is_concatenated else torch.stack([gate, up], dim=-1).flatten(-2))


def adapt(experts: Any, lora: ExpertLora) -> None:
    """Put adapters into an experts module and let transformers run it through `experts_forward`."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    experts.add_module(NAME, lora)
    before = experts.config._experts_implementation
    lora.before = before if before != NAME else None  # layers share one configuration; the first to be adapted knows
    experts.config._experts_implementation = NAME


@torch.no_grad()
def fold(experts: Any) -> None:
    """Add the adapters of a layer's experts to the weights, in double precision, and remove them."""
    lora = experts.get_submodule(NAME)
    for tensor, parts in fused_parts(experts).items():
        for part, outputs in parts.items():
            for expert, rank in enumerate(lora.ranks.get(part, ())):
                if rank:
                    weight = expert_weight(experts, expert, tensor, outputs)
                    A, B = lora.A[part][expert, :rank].double(), lora.B[part][expert, :, :rank].double()
                    weight.copy_((weight.double() + float(lora.scale(part)[expert]) * (B @ A)).to(weight.dtype))
    delattr(experts, NAME)
    if lora.before is not None:
        experts.config._experts_implementation = lora.before


def expert_loras(model: nn.Module) -> dict[str, ExpertLora]:
    """The adapters of fused experts by their name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ExpertLora)}
