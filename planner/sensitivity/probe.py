"""`planner.probe`: how strongly the loss of sampled examples pulls on every linear module.

For one example the gradient of a linear layer's weight is G = sum_t d_t x_t^T over its tokens, with x the layer's inputs and d
the gradients of its outputs. Both are at hand when the backward pass reaches the layer, so G is formed there, for one example and
one matrix at a time, reduced to a few numbers and dropped, or only its norm is computed, which is cheaper: no full gradient is
ever kept, the weights need none of their own, and every example yields its own numbers.

No clipping, no weight updates, dropout off, every site sees the same examples: what the released LoRA-SMoE code does differently
(docs/reference/method.md).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import compress

import numpy as np
import torch
from torch import Tensor, nn

from planner.modules.checkpointing import recompute
from planner.modules.fused_experts import expert_sites, is_experts
from planner.modules.labelled import is_separable, labelled_losses, learned_positions
from planner.modules.linear import linear_shape
from planner.sensitivity.recorder import Recorder
from planner.sensitivity.report import ExpertUsage, SensitivityReport, SiteSensitivity, Task, field_of
from planner.sensitivity.statistics import estimates, stability
from planner.sensitivity.whitened import WhitenedGradients
from spectra import Checkpoint, InputError
from spectra.checkpoint.chosen import chosen_modules
from spectra.checkpoint.names import is_adaptable, projection_type, resolve, sort_key
from spectra.core.progress import Progress, silent
from spectra.report import ModelInfo

Batch = Mapping[str, Tensor]


def probe(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    checkpoint: Checkpoint | None = None,
    task: str = "task",
    modules: str | None = None,
    gradient_checkpointing: bool = False,
    effective_rank: bool = False,
    progress: Progress = silent,
) -> SensitivityReport:
    """Measure the sensitivity of every linear module, and the routing of mixture-of-experts models.

    Args:
        model: a transformers model whose forward takes a batch without `labels` and returns `.logits`: of shape (batch, classes),
            or (batch, tokens, vocabulary) for a causal language model. May be frozen or quantised. Left exactly as it was found.
        batches: mappings of tensors, with `labels` of shape (batch,), or (batch, tokens) where -100 is ignored.
        checkpoint: where the model came from; the report then uses its names, which may lack a prefix that the live model adds.
        task: a name for this sample.
        modules: which of them to measure, as `chosen_modules` reads it; by default all.
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
        effective_rank: also measure that of every linear module's whitened gradient (whitened.py); routed experts have none.
            Memory holds a gradient (d_out, d_in) and a covariance (d_in, d_in) per module, in float32.
        progress: told the number of examples done after each batch.

    Returns:
        Per linear module inside a numbered layer, and per routed expert's projection, the statistics of `SiteSensitivity`; the
        loss is an example's mean loss per label.

    Raises:
        InputError: no linear modules, no examples, a module unknown to the checkpoint, or a loss or gradient that is not finite.
    """
    linears = {name: module for name, module in model.named_modules() if linear_shape(module) and is_adaptable(name)}
    experts = {name: module for name, module in model.named_modules() if is_experts(module)}
    shapes = _shapes(linears, experts)
    if modules is not None:
        shapes = dict(compress(shapes.items(), chosen_modules(list(shapes), modules)))
        linears = {name: module for name, module in linears.items() if name in shapes}
        experts = {name: one for name, one in experts.items() if any(f"{name}.{site}" in shapes for site in expert_sites(one))}
    if not shapes:
        raise InputError(f"{type(model).__name__}: no linear module inside a numbered layer")
    stored = _stored_names(shapes, checkpoint)
    is_separable(model)  # now, because the answer is found by running the model, which nobody should watch
    begun = time.monotonic()
    recorder, whitened = Recorder(linears, experts), WhitenedGradients(linears if effective_rank else {})
    with _frozen_evaluation(model), _recomputed(model, gradient_checkpointing), recorder.watching(), whitened.watching():
        examples = _run(model, batches, recorder, whitened, progress)
    if examples == 0:
        raise InputError(f"task {task!r}: no examples to take gradients on")
    usage, directions = _usage(recorder, experts), whitened.effective_ranks()
    sites = [_site(stored[name], name, shape, recorder, usage, directions) for name, shape in shapes.items()]
    sites.sort(key=lambda site: sort_key(site.name))
    # The squared gradient, which alone is known of every example.
    squared = np.stack([recorder.per_example(name)[:, 0].numpy() for name in shapes], axis=1)
    curve, stable_from = stability(squared, [projection_type(name) for name in shapes])
    described = Task(name=task, examples=examples, stability=curve, stable_from=stable_from, seconds=time.monotonic() - begun)
    return SensitivityReport(model=_info(model, checkpoint), tasks=(described,), sites=tuple(sites))


def _shapes(linears: Mapping[str, nn.Module], experts: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    shapes = {name: shape for name, module in linears.items() if (shape := linear_shape(module))}
    return shapes | {f"{name}.{site}": shape for name, module in experts.items() for site, shape in expert_sites(module).items()}


def _stored_names(sites: Iterable[str], checkpoint: Checkpoint | None) -> Mapping[str, str]:
    if checkpoint is None:
        return {name: name for name in sites}
    names = resolve(sites, list(checkpoint.modules()))
    if unknown := [name for name in sites if name not in names]:
        raise InputError(f"module {unknown[0]!r} of the model is not in {checkpoint.folder}")
    return names


def _info(model: nn.Module, checkpoint: Checkpoint | None) -> ModelInfo:
    if checkpoint is not None:
        return ModelInfo.of(checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelInfo(name=type(model).__name__, parameters=parameters, fingerprint=None)


def _site(
    name: str,
    live: str,
    shape: tuple[int, int],
    recorder: Recorder,
    usage: Mapping[str, ExpertUsage],
    directions: Mapping[str, float],
) -> SiteSensitivity:
    per_example = recorder.per_example(live)
    if torch.isinf(per_example).any() or torch.isnan(per_example[:, 0]).any():  # NaN elsewhere: not taken
        raise InputError(f"site {name!r}: gradient is not finite; check the model's weights and dtype")
    values = {field_of(statistic): value for statistic, value in estimates(per_example.numpy()).items()}
    used = (usage[live],) if live in usage else ()
    effective = (directions[live],) if live in directions else ()
    return SiteSensitivity.model_validate({"name": name, "shape": shape, "usage": used, "effective_rank": effective, **values})


def _usage(recorder: Recorder, experts: Mapping[str, nn.Module]) -> Mapping[str, ExpertUsage]:
    """How each routed expert was used, under the names of its projections."""
    found = {}
    for name, module in experts.items():
        shares, weights, of_all = recorder.usage(name)
        for site in expert_sites(module):
            expert = int(site.partition(".")[0])
            found[f"{name}.{site}"] = ExpertUsage(
                token_share=float(shares[expert]), mean_weight=float(weights[expert]), all_share=float(of_all[expert])
            )
    return found


def _run(model: nn.Module, batches: Iterable[Batch], recorder: Recorder, whitened: WhitenedGradients, progress: Progress) -> int:
    examples = 0
    device = next(model.parameters()).device
    for batch in batches:
        inputs = {key: value.to(device) for key, value in batch.items()}
        labels = inputs.pop("labels")
        recorder.begin(len(labels), inputs.get("attention_mask"), learned_positions(labels))
        whitened.begin(inputs.get("attention_mask"))
        losses = labelled_losses(model, inputs, labels)
        if not torch.isfinite(losses).all():
            raise InputError(f"loss of example {examples + int((~torch.isfinite(losses)).nonzero()[0]) + 1} is not finite")
        # The sum and not the mean: each example's gradient is then that of its own loss, in a batch of any size.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        examples += len(labels)
        progress(examples)
    return examples


@contextmanager
def _frozen_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no weight gradients, while gradients still flow through every layer; all undone on leaving."""
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    embeddings = model.get_input_embeddings()  # type: ignore[operator]  # every transformers model has them
    # With all weights frozen nothing else requires a gradient, and there would be no backward pass.
    hook = embeddings.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    try:
        with torch.enable_grad():  # whatever the caller has set
            yield
    finally:
        hook.remove()
        for module, training in modes.items():
            # Not by train(), which would set a module's children like the module itself.
            module.training = training
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def _recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Checkpoint the layers, which takes training mode: it is set on them alone, not on the dropout inside."""
    modes = {module: module.training for module in model.modules()}
    layers = recompute(model) if wanted else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training, layer.gradient_checkpointing = modes[layer], False
