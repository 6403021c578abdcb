"""Per-example gradient statistics by plain autograd: one example at a time, full weight gradients, nothing clever."""

import torch


def reference_statistics(model, batch, weight_of, loss_of):
    """Site name -> list of (sum G^2, sum |G W|, |sum G W|, sum (G W)^2), one per example.

    `weight_of` maps a site to (parameter, function that cuts the site's matrix out of a tensor of the parameter's shape);
    `loss_of(model, example)` is that example's loss.
    """
    found = {name: [] for name in weight_of}
    parameters = list({id(parameter): parameter for parameter, _ in weight_of.values()}.values())
    for index in range(len(batch["labels"])):
        example = {key: value[index : index + 1] for key, value in batch.items()}
        gradients = torch.autograd.grad(loss_of(model, example), parameters, allow_unused=True)
        by_id = {id(parameter): gradient for parameter, gradient in zip(parameters, gradients, strict=True)}
        for name, (parameter, cut) in weight_of.items():
            G, W = cut(by_id[id(parameter)]).double(), cut(parameter.detach()).double()
            G_W = G * W
            found[name].append([float(v) for v in ((G**2).sum(), G_W.abs().sum(), G_W.sum().abs(), (G_W**2).sum())])
    return found
