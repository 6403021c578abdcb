"""ExpertLora: a LoRA of its own rank on every projection of every routed expert of a mixture-of-experts base model.

transformers 5 keeps a layer's experts in 3-D tensors and runs them over tokens sorted by expert. Ours rides on the same order:
for each projection two more grouped products, x A_e^T and z B_e^T. Ranks differ by expert; in memory they are padded with zeros
to the layer's largest, a multiple of 8, because grouped products cannot be ragged in two directions. Padding needs no mask:
where a row of A and a column of B are both zero, both gradients are zero, and AdamW leaves them there, weight decay included. On
disk there is no padding.

Shapes: S token-expert pairs sorted by expert, E experts, r padded rank.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from planner.modules.fused_experts import expert_sites, expert_weight, fused_parts
from spectra import InputError
from trainer.layers.draws import draw_uniform, generator_of
from trainer.layers.router_state import RouterState

NAME = "loraplan"  # of our entry in transformers' table of experts' forwards, and of the adapters inside an experts module
MULTIPLE = 8  # what grouped products need in half precision


class ExpertLora(nn.Module):
    """The adapters of one layer's experts.

    Attributes:
        A: projection -> (E, r, d_in), Kaiming-uniform in the first ranks[e] rows of expert e, zero below.
        B: projection -> (E, d_out, r), zero.
        ranks: projection -> one rank per expert.
    """

    def __init__(
        self,
        experts: Any,
        ranks: Mapping[str, Sequence[int]],
        lora_alpha: float,
        state: RouterState | None = None,
        name: str = "",
        seed: int | None = None,
    ) -> None:
        """Make adapters that change nothing yet.

        Args:
            experts: a transformers module that holds all experts of a layer.
            ranks: projection (`gate_proj`, `up_proj`, `down_proj`) -> one rank per expert; projections left out get none.
            lora_alpha: an expert of rank r is scaled by lora_alpha / r.
            state: what the model's adapters share, such as which tokens are padding.
            name: the experts' name in the shared state.
            seed: see `reset_parameters`.

        Raises:
            InputError: a projection that the experts do not have, or ranks for another number of experts.
        """
        super().__init__()
        self.state, self.name = state, name
        self.implementation: str | None = None
        """Name of the forward that transformers ran these experts with before they were adapted."""
        shapes, count, like = expert_sites(experts), len(experts.down_proj), experts.down_proj
        # Float32 even on a half-precision base: updates are often below bfloat16's resolution.
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        self.ranks: dict[str, list[int]] = {}
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for part, given in ranks.items():
            if f"0.{part}" not in shapes or len(given) != count:
                raise InputError(
                    f"{len(given)} ranks for {part}, but the layer has {count} experts of {', '.join(_parts(experts))}"
                )
            if not max(given):
                continue
            d_out, d_in = shapes[f"0.{part}"]
            padded = padded_rank(max(given))
            self.ranks[part] = list(given)
            self.A[part] = nn.Parameter(torch.zeros(count, padded, d_in, dtype=dtype, device=like.device))
            self.B[part] = nn.Parameter(torch.zeros(count, d_out, padded, dtype=dtype, device=like.device))
            # An expert without rank has nothing to scale; zero keeps its entry finite. Divided in float64, rounded once.
            scaling = torch.tensor([lora_alpha / rank if rank else 0.0 for rank in given], dtype=torch.float64)
            self.register_buffer(buffer_name(part), scaling.to(like.device, dtype), persistent=False)
        self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """A Kaiming-uniform with a = sqrt 5 (bounds 1 / sqrt(d_in)) where there is rank, all else zero.

        Args:
            seed: of the draws, together with each site's name (draws.py); by default they are torch's next ones.
        """
        for part, ranks in self.ranks.items():
            self.A[part].zero_()
            self.B[part].zero_()
            for expert, rank in enumerate(ranks):
                # Without the padding, so that the random numbers used up do not depend on how far ranks are padded.
                draw_uniform(self.A[part][expert, :rank], generator_of(seed, self.name, expert, part))

    def scaling(self, part: str) -> Tensor:
        """(E,), what every expert's update of a projection is multiplied with."""
        found: Tensor = getattr(self, buffer_name(part))
        return found

    @property
    def parameters_planned(self) -> int:
        """Trainable parameters without padding."""
        return sum(sum(ranks) * (self.A[part].shape[-1] + self.B[part].shape[1]) for part, ranks in self.ranks.items())

    def delta_weight(self, part: str, expert: int) -> Tensor:
        """Update that the adapter of one expert's projection adds to its weight, (d_out, d_in) in float64."""
        rank = self.ranks[part][expert]
        A, B = self.A[part][expert, :rank].detach().double(), self.B[part][expert, :, :rank].detach().double()
        delta: Tensor = float(self.scaling(part)[expert]) * (B @ A)
        return delta

    def updates(self, parts: Sequence[str], x_SI: Tensor, expert_S: Tensor, offsets_E: Tensor) -> dict[str, Tensor]:
        """Outputs that the adapters of projections with the same input add, (S, d_out) each; the input is read once for all."""
        # gate and up read one input: their A are stacked to (E, sum of r, d_in), and one product serves both.
        A_ERI = torch.cat([self.A[part] for part in parts], dim=1) if len(parts) > 1 else self.A[parts[0]]
        # A and B stay in their own precision; products run in that of the activations, as autocast would have it.
        both_SR = grouped(x_SI, A_ERI.to(x_SI.dtype).transpose(1, 2), offsets_E)
        found = {}
        for part, z_SR in zip(parts, torch.split(both_SR, [self.A[part].shape[1] for part in parts], dim=1), strict=True):
            # Each row has its own expert's scaling; on z, which is narrow, it costs less than on the output.
            scaled_SR = z_SR * self.scaling(part).to(x_SI.dtype)[expert_S, None]
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
        """Fill A and B from what `unpadded` returns."""
        for part, ranks in self.ranks.items():
            # What lies beyond an expert's rank is not touched: it has been zero since the adapters were made, and stays so.
            rows = torch.split(unpadded[f"{part}.A"], ranks)
            columns = torch.split(unpadded[f"{part}.B"], ranks, dim=1)
            for expert, rank in enumerate(ranks):
                self.A[part][expert, :rank] = rows[expert]
                self.B[part][expert, :, :rank] = columns[expert]

    def extra_repr(self) -> str:
        """Text that print(model) shows."""
        return ", ".join(f"{part}: {sum(ranks)} ranks, {max(ranks)} at most" for part, ranks in self.ranks.items())


def buffer_name(part: str) -> str:
    """Buffer of a projection's scaling: buffers have flat names, projections are keys."""
    return f"scaling_{part}"


def padded_rank(rank: int) -> int:
    """The rank that is held in memory for experts of at most this rank."""
    return -(-rank // MULTIPLE) * MULTIPLE


def _parts(experts: Any) -> list[str]:
    return [part for parts in fused_parts(experts).values() for part in parts]


def grouped(x_SI: Tensor, weight_EIO: Tensor, offsets_E: Tensor) -> Tensor:
    """Rows of group e times the matrix of expert e.

    Args:
        x_SI: sorted by expert.
        weight_EIO: one matrix per expert.
        offsets_E: where each group ends, int32.

    Returns:
        (S, O). A loop stands in where grouped products have no kernel: double precision, old GPUs, rows that do not start at
        multiples of 16 bytes.
    """
    aligned = all(size * x_SI.itemsize % 16 == 0 for size in weight_EIO.shape[1:])
    # Reading the offsets waits for the device; the grouped kernel below takes them where they are.
    if x_SI.dtype == torch.float64 or not aligned or not _has_kernel(x_SI.device):
        ends = offsets_E.tolist()
        starts = [0, *ends[:-1]]
        return torch.cat(
            [
                x_SI[start:end] @ weight_EIO[expert].to(x_SI.dtype)
                for expert, (start, end) in enumerate(zip(starts, ends, strict=True))
            ]
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
    # Compute capability 8.0 is also where transformers draws the line for torch's grouped products.
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
    # Token-expert pairs, S = tokens x k, sorted by expert. Pair number i of the unsorted ones belongs to token i // k.
    expert_S, order = torch.sort(index.reshape(-1), stable=True)
    counts = torch.bincount(expert_S, minlength=len(module.down_proj))
    # The kernel takes ends of groups as int32; an expert that no token chose has an empty group.
    offsets = counts.cumsum(0).to(torch.int32)
    # Not in evaluation mode: the pass for the reference logits must not decide which expert grows.
    if lora is not None and lora.state is not None and lora.training:
        lora.state.observe_experts(lora.name, index, weights.detach(), len(module.down_proj))
    x = hidden[order // k]
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    with torch.autocast(x.device.type, enabled=False):  # grouped products know nothing of autocast
        x = x.to(dtype)
        up_tensor = "gate_up_proj" if module.has_gate else "up_proj"
        up = _projected(module, lora, up_tensor, x, expert_S, offsets)
        inner = module._apply_gate(up) if module.has_gate else module.act_fn(up)
        out = _projected(module, lora, "down_proj", inner, expert_S, offsets)
    if getattr(module, "has_post_expert_norm", False):  # newer than the oldest transformers that we support
        out = module.post_expert_norm(out)
    out = out * weights.reshape(-1)[order, None]
    # Back to the tokens' order by a gather with the inverse permutation and a sum over k, as transformers does: index_add would
    # sum in an order that changes from run to run on a GPU.
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return out[back].view(tokens, k, -1).sum(1).to(hidden.dtype)


def _projected(module: Any, lora: ExpertLora | None, tensor: str, x: Tensor, expert_S: Tensor, offsets: Tensor) -> Tensor:
    stored = getattr(module, tensor)
    # As (E, d_in, d_out), whichever way round the family stores its weights.
    y = grouped(x, stored if module.is_transposed else stored.transpose(1, 2), offsets)
    if module.has_bias:
        # Grouped products take no bias.
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
    # The stored tensor fuses gate and up, so it takes one update for both; a half without adapters is given zeros.
    gate, up = (added.get(part, torch.zeros_like(added[adapted[0]])) for part in parts)
    # All of gate before all of up, or the two alternating output by output (gpt-oss).
    return y + (torch.cat([gate, up], dim=-1) if module.is_concatenated else torch.stack([gate, up], dim=-1).flatten(-2))


def adapt(experts: Any, lora: ExpertLora) -> None:
    """Put adapters into an experts module and let transformers run it through `experts_forward`.

    transformers chooses that function by a name in the model's configuration, which all layers share. So only the first layer
    that is adapted sees which name stood there before, and only it can put the name back.
    """
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
    experts.add_module(NAME, lora)
    # A layer of the same configuration that was adapted earlier has put our name there already.
    before = experts.config._experts_implementation
    lora.implementation = before if before != NAME else None
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
                    weight.copy_((weight.double() + lora.delta_weight(part, expert)).to(weight.dtype))
    delattr(experts, NAME)
    if lora.implementation is not None:
        experts.config._experts_implementation = lora.implementation


def expert_loras(model: nn.Module) -> dict[str, ExpertLora]:
    """The adapters of fused experts by their name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ExpertLora)}
