"""The losses of a causal language model where labels are: head and cross-entropy for these positions and no others.

A model's own loss multiplies every position with the whole vocabulary, though a completion labels few of them. Here the body runs
as ever, only the hidden states at labelled positions are kept, and the head sees them alone, a few at a time, so that memory does
not grow with vocabulary x length. What the architecture does around its head (scaling, soft-capping) stays its own code: its own
forward runs with the kept states in the place of the body's. A model for which that gives other logits is found out by trying.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from spectra.core.log import LOG

AT_A_TIME = 2**24  # logits that exist at once: 64 MiB in single precision
STATES = "last_hidden_state"  # transformers' name for what a body returns
_separable: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each example, from logits.

    Args:
        logits: (batch, classes) with labels (batch,), or (batch, tokens, vocabulary) with labels (batch, tokens), which are
            shifted here.
        labels: class or token ids; -100 is ignored.

    Returns:
        Shape (batch,), in float32 or better.
    """
    if labels.ndim == 2:
        logits, labels = logits[:, :-1], labels[:, 1:]
    else:
        logits, labels = logits[:, None], labels[:, None]
    losses = _cross_entropy(logits.flatten(0, 1), labels.flatten()).view(labels.shape)
    counts: Tensor = (labels != -100).sum(1).clamp(min=1)  # nothing to learn: 0, and not 0 / 0
    return losses.sum(1) / counts


def labelled_losses(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Mean cross-entropy of each example, from a model that need not make the logits of other positions.

    Args:
        model: a transformers model, perhaps wrapped by DDP, or any module that returns `.logits`.
        inputs: what its forward takes, without labels.
        labels: (batch,) of a classifier, or (batch, tokens) of a causal language model; -100 is ignored.

    Returns:
        Shape (batch,), in float32 or better.
    """
    if labels.ndim == 1:
        return example_losses(model(**inputs).logits, labels)
    losses_N, row_N = token_losses(model, inputs, labels)
    counts = torch.bincount(row_N, minlength=len(labels)).clamp(min=1)
    return torch.zeros(len(labels), dtype=losses_N.dtype, device=losses_N.device).index_add(0, row_N, losses_N) / counts


def token_losses(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every labelled token.

    Args:
        model: a causal language model; see `labelled_losses`.
        inputs: what its forward takes, without labels.
        labels: (batch, tokens), shifted here; -100 is ignored.

    Returns:
        The losses, (labelled tokens,), in float32 or better, and the row of the batch that each token is in.
    """
    keep_BT = labels[:, 1:] != -100
    targets_N, row_N = labels[:, 1:][keep_BT], keep_BT.nonzero()[:, 0]
    inner: Any = getattr(model, "module", model)
    if not is_separable(inner):
        return _cross_entropy(model(**inputs).logits[:, :-1][keep_BT], targets_N), row_N
    # No cache: training and scoring read every position once.
    given = {**inputs, "use_cache": False}
    with _body_cut(inner.base_model, keep_BT) as kept:
        model(**given)
    head = _Head(inner, given, kept["type"])
    if not head.frozen:
        return head.losses(kept["states"], targets_N), row_N
    losses_N: Tensor = _HeadLosses.apply(kept["states"], targets_N, head)  # type: ignore[no-untyped-call]
    return losses_N, row_N


def learned_positions(labels: Tensor) -> Tensor | None:
    """Which tokens' outputs a label is compared with, (batch, tokens); None for a classifier, whose label is no token's.

    Args:
        labels: (batch,), or (batch, tokens) as `labelled_losses` takes them: a token is asked for the label of the next one.
    """
    if labels.ndim == 1:
        return None
    return nn.functional.pad(labels[:, 1:] != -100, (0, 1))


def is_separable(model: nn.Module) -> bool:
    """Whether a model's head can be given single positions, found out once by trying on a few tokens.

    Call it before anything hooks into the model, because it runs the model.
    """
    if model not in _separable:
        separable = _answers_alike(model)
        if separable is False:
            LOG.info("%s: its head needs all positions, so losses take more memory and time", type(model).__name__)
        _separable[model] = bool(separable)
    return _separable[model]


@torch.no_grad()
def _answers_alike(model: Any) -> bool | None:
    """Compare logits of two positions with and without the others; None where there is no head to speak of."""
    body = getattr(model, "base_model", None)
    if not isinstance(body, nn.Module) or body is model or model.get_output_embeddings() is None:
        return None
    size, device = model.config.get_text_config().vocab_size, model.device
    ids = torch.tensor([[(97 * position + 11) % size for position in range(8)]], device=device)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    keep = torch.zeros(1, 7, dtype=torch.bool, device=device)
    keep[0, [2, 5]] = True
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        whole = model(**given).logits[:, :-1][keep].float()
        with _body_cut(body, keep) as kept:
            model(**given)
        alone = _Head(model, given, kept["type"]).logits(kept["states"]).float()
        allowed = 1e-4 if model.dtype in (torch.float32, torch.float64) else 1e-2  # rounding differs with the number of positions
        return bool(alone.shape == whole.shape and (alone - whole).abs().max() <= allowed * whole.abs().max().clamp(min=1))
    # Whatever a family's own code raises when its body's states are replaced, it is one that cannot be separated.
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return False
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _body_cut(body: nn.Module, keep_BT: Tensor) -> Iterator[dict[str, Any]]:
    """Keep what the body returns where positions count, and let its caller see one position only."""
    kept: dict[str, Any] = {}

    def cut(_module: nn.Module, _arguments: Any, output: ModelOutput) -> ModelOutput:
        kept["type"], kept["states"] = type(output), output[STATES][:, :-1][keep_BT]
        # A copy, because over a slice of a larger tensor the head's product would copy its weight first.
        output[STATES] = output[STATES][:1, :1].clone(memory_format=torch.contiguous_format)
        return output

    hook = body.register_forward_hook(cut)
    try:
        yield kept
    finally:
        hook.remove()


class _Head:
    """What a model does behind its body, as a function of hidden states."""

    def __init__(self, model: Any, given: Mapping[str, Any], made: type) -> None:
        self.model, self.given, self.made = model, given, made
        self.size = max(1, AT_A_TIME // model.config.get_text_config().vocab_size)

    @property
    def frozen(self) -> bool:
        """Whether nothing behind the body is trained."""
        inside = {id(parameter) for parameter in self.model.base_model.parameters()}
        behind = [parameter for parameter in self.model.parameters() if id(parameter) not in inside]
        tied = self.model.get_output_embeddings()  # may be the body's own input embedding
        return not any(parameter.requires_grad for parameter in (*behind, *(tied.parameters() if tied is not None else ())))

    def logits(self, states_ND: Tensor) -> Tensor:
        """(states, vocabulary)."""
        body = self.model.base_model
        hidden = body.__dict__.get("forward")  # what somebody else put before the class's own
        body.forward = lambda *_, **__: self.made(**{STATES: states_ND[None]})
        try:
            # Not by calling the model, whose hooks would take this for a pass of its own.
            found: Tensor = self.model.forward(**self.given).logits[0]
            return found
        finally:
            del body.forward
            if hidden is not None:
                body.forward = hidden

    def parts(self, states_ND: Tensor, targets_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """States and targets, so many at a time as may have logits."""
        return zip(torch.split(states_ND, self.size), torch.split(targets_N, self.size), strict=True)

    def losses(self, states_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Cross-entropy of each state's target."""
        return torch.cat([_cross_entropy(self.logits(part), targets) for part, targets in self.parts(states_ND, targets_N)])


class _HeadLosses(torch.autograd.Function):
    """`_Head.losses` for a frozen head: keeps each state's gradient, which is no larger than the state, and no logits."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, targets_N: Tensor, head: _Head) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return head.losses(states_ND, targets_N)
        losses: list[Tensor] = []
        slopes: list[Tensor] = []
        for part, targets in head.parts(states_ND, targets_N):
            leaf = part.detach().requires_grad_()
            with torch.enable_grad():
                found = _cross_entropy(head.logits(leaf), targets)
            # A token's loss depends on its own state alone, so the gradient of the sum is every token's own.
            slopes += torch.autograd.grad(found, leaf, torch.ones_like(found))
            losses.append(found.detach())
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes_ND,) = ctx.saved_tensors
        return gradients[0][:, None].to(slopes_ND.dtype) * slopes_ND, None, None


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return nn.functional.cross_entropy(logits, targets, reduction="none")
