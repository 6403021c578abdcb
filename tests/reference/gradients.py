"""Per-example squared gradient norms by plain autograd: one example at a time, full weight gradients."""

import torch


def reference_squared_norms(model, batch, sites, loss_of):
    """Site name -> list of |dL_i / dW|^2, one per example; `loss_of(model, example)` is that example's loss."""
    norms = {name: [] for name in sites}
    modules = dict(model.named_modules())
    for index in range(len(batch["labels"])):
        example = {key: value[index : index + 1] for key, value in batch.items()}
        weights = [modules[name].weight for name in sites]
        gradients = torch.autograd.grad(loss_of(model, example), weights)
        for name, gradient in zip(sites, gradients, strict=True):
            norms[name].append(float((gradient.double() ** 2).sum()))
    return norms
