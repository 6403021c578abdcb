"""`planner.probe`: how strongly the loss of sampled examples pulls on every linear module.

For one example the gradient of a linear layer's weight is G = sum_t d_t x_t^T over its tokens, with x the layer's inputs and d
the gradients of its outputs. Its squared norm never needs G itself: |G|^2 = sum_{s,t} (x_s . x_t)(d_s . d_t), two small
token-by-token products per example (Goodfellow, arXiv 1510.01799, extended over tokens). So nothing of the size of a weight is
allocated, the weights need no gradients, and a batch still yields one number per example.

No clipping, no weight updates, dropout off, every site sees the same examples: what the released LoRA-SMoE code does differently
(docs/method.md).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from planner.evidence import is_adaptable
from planner.linear import linear_shape
from planner.reports import SensitivityReport, SiteSensitivity, Task
from spectra import Checkpoint, InputError
from spectra.analysis import model_info
from spectra.report import ModelInfo
from spectra.sites import resolve

Batch = Mapping[str, Tensor]
Progress = Callable[[int], None]


def probe(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    checkpoint: Checkpoint | None = None,
    task: str = "task",
    progress: Progress | None = None,
) -> SensitivityReport:
    """Measure squared-gradient sensitivity.

    Args:
        model: a transformers model whose forward takes a batch without `labels` and returns `.logits`: of shape (batch, classes),
            or (batch, tokens, vocabulary) for a causal language model. Left exactly as it was found.
        batches: mappings of tensors, with `labels` of shape (batch,), or (batch, tokens) where -100 is ignored.
        checkpoint: where the model came from; the report then uses its names, which may lack a prefix that the live model adds.
        task: a name for this sample.
        progress: called with the number of examples done.

    Returns:
        Per linear module inside a numbered layer, the mean over examples of |dL_i / dW|^2 and its standard error; L_i is the
        example's mean loss per label.

    Raises:
        InputError: no linear modules, no examples, a module unknown to the checkpoint, or a loss or gradient that is not finite.
    """
    sites = {name: module for name, module in model.named_modules() if linear_shape(module) and is_adaptable(name)}
    if not sites:
        raise InputError(f"{type(model).__name__}: no linear module inside a numbered layer")
    norms: dict[str, list[Tensor]] = {name: [] for name in sites}
    with _frozen_evaluation(model), _recording(sites, norms):
        examples = _run(model, batches, progress)
    if examples == 0:
        raise InputError(f"task {task!r}: no examples to take gradients on")
    names = _stored_names(sites, checkpoint)
    measured = tuple(_site(names[name], module, torch.cat(norms[name])) for name, module in sites.items())
    return SensitivityReport(model=_info(model, checkpoint), tasks=(Task(name=task, examples=examples),), sites=measured)


def _stored_names(sites: Iterable[str], checkpoint: Checkpoint | None) -> Mapping[str, str]:
    if checkpoint is None:
        return {name: name for name in sites}
    names = resolve(sites, list(checkpoint.modules()))
    if unknown := [name for name in sites if name not in names]:
        raise InputError(f"module {unknown[0]!r} of the model is not in {checkpoint.folder}")
    return names


def _info(model: nn.Module, checkpoint: Checkpoint | None) -> ModelInfo:
    if checkpoint is not None:
        return model_info(checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelInfo(name=type(model).__name__, parameters=parameters, fingerprint=None)


def _site(name: str, module: nn.Module, per_example: Tensor) -> SiteSensitivity:
    if not torch.isfinite(per_example).all():
        raise InputError(f"site {name!r}: gradient is not finite; check the model's weights and dtype")
    shape = linear_shape(module)
    assert shape is not None  # only linear modules are probed
    deviation = per_example.std() / len(per_example) ** 0.5 if len(per_example) > 1 else torch.tensor(torch.nan)
    return SiteSensitivity(
        name=name,
        shape=shape,
        squared_gradient=(float(per_example.mean()),),
        standard_error=(float(deviation),),
    )


def _run(model: nn.Module, batches: Iterable[Batch], progress: Progress | None) -> int:
    examples = 0
    for batch in batches:
        labels = batch["labels"]
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        losses = example_losses(logits, labels)
        if not torch.isfinite(losses).all():
            raise InputError(f"loss of example {examples + int((~torch.isfinite(losses)).nonzero()[0]) + 1} is not finite")
        losses.sum().backward()  # type: ignore[no-untyped-call]
        examples += len(labels)
        if progress:
            progress(examples)
    return examples


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each example.

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
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    counts: Tensor = (labels != -100).sum(1).clamp(min=1)
    return losses.sum(1) / counts


@contextmanager
def _frozen_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no weight gradients, while gradients still flow through every layer; all undone on leaving."""
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    embeddings = model.get_input_embeddings()  # type: ignore[operator]  # every transformers model has them
    hook = embeddings.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    try:
        with torch.enable_grad():
            yield
    finally:
        hook.remove()
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def _recording(sites: Mapping[str, nn.Module], norms: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Append every backward pass's squared gradient norms, one per example, to each site's list."""

    def hook(into: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(lambda gradient: into.append(squared_norms(inputs[0].detach(), gradient).cpu()))  # type: ignore[no-untyped-call]

        return record

    hooks = [module.register_forward_hook(hook(norms[name])) for name, module in sites.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def squared_norms(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Squared Frobenius norm of each example's weight gradient sum_t d_t x_t^T.

    Args:
        inputs: (batch, ..., d_in), what the layer saw.
        gradients: (batch, ..., d_out), the loss gradient of what it returned.

    Returns:
        Shape (batch,), in float32 or better.
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    x_BTI = inputs.reshape(len(inputs), -1, inputs.shape[-1]).to(dtype)
    d_BTO = gradients.reshape(len(gradients), -1, gradients.shape[-1]).to(dtype)
    tokens, d_in, d_out = x_BTI.shape[1], x_BTI.shape[2], d_BTO.shape[2]
    if tokens * (d_in + d_out) <= d_in * d_out:
        return ((x_BTI @ x_BTI.mT) * (d_BTO @ d_BTO.mT)).sum((1, 2))
    # Long examples of a narrow layer: the gradient itself is smaller than the token-by-token products.
    return torch.stack([(d.mT @ x).square().sum() for x, d in zip(x_BTI, d_BTO, strict=True)])
