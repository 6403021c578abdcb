"""What one process of several does, for test_several_processes.py: `torchrun together.py WHAT OUTPUT ...`.

Each process writes what it found to OUTPUT with its number behind. The same functions, called in the test itself, are what one
process does alone.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

import trainer
from planner import Plan
from tests import models
from trainer.adapters.tensors import trained_state
from trainer.settings import GrowthSettings
from trainer.training import train as module
from trainer.training.growth import GrowingGroup, Growth
from trainer.training.loop import MonitorCallback

EXPERTS, ROOM = 4, 8


class Given:
    """A growth group whose usage and gradients somebody says."""

    ranks, target, start, most = [2] * EXPERTS, 4 * EXPERTS, 2, ROOM

    def take_usage(self):
        return self.usage

    def pulls(self, form):
        return {"up_proj": self.terms[0] * self.terms[1]}


def observe(process):
    """Share and saliency after five steps: usage is the process's own, gradients are averaged over all of them already.

    Args:
        process: 0 or 1; None for one process that sees the usage of both.
    """
    draws, growing = torch.Generator().manual_seed(0), GrowingGroup(Given(), GrowthSettings())
    for _ in range(5):
        usage, terms = torch.rand(2, EXPERTS, generator=draws), torch.rand(2, EXPERTS, ROOM, generator=draws)
        growing.group.usage = usage.sum(0) if process is None else usage[process].clone()
        growing.group.terms = terms[0], terms[1]
        growing.observe()
    return {"share": growing.share.tolist(), "saliency": growing.saliency()}


def disagree(process, plan):
    """Every event of a growth whose moving averages are another process's own numbers: what it would decide, and what it did."""
    plan = Plan.load(plan)
    model = trainer.apply_plan(models.build("olmoe"), plan)
    growth, draws = Growth(model, plan, 24, GrowthSettings(), begin=1), torch.Generator().manual_seed(process)
    own, decided = [], []
    for number, step in enumerate(growth.schedule):
        for growing in growth.groups.values():
            growing.share = torch.rand(EXPERTS, generator=draws)
            growing.importance = {"up_proj": torch.rand(EXPERTS, ROOM, generator=draws)}
        own.append({name: growing.decide(number + 1, len(growth.schedule)) for name, growing in growth.groups.items()})
        growth.event(number, step)
        decided.append({name: growing.group.ranks for name, growing in growth.groups.items()})
    noted = [{name: list(ranks) for name, ranks in event.ranks.items()} for event in growth.history]
    assert noted == decided
    return {"own": own, "decided": decided, "plan": growth.finish(plan, 4.0).to_json(), "digest": digest(model)}


def train(process, plan, model, data, output, settings, resume, evaluation):
    """A run; every process says which plan and tensors it ends with, of which only the main one's are saved."""
    ended, save = {}, module.save_adapters

    def noted(folder, built, plan, config):
        ended.update(plan=plan.to_json(), digest=digest(built))
        save(folder, built, plan, config)

    module.save_adapters = noted
    asked = {"resume": resume == "yes", "evaluation": evaluation or None}
    trainer.train(Plan.load(plan), model, data, output, trainer.TrainSettings.model_validate_json(settings), **asked)
    return ended


def gradients(process, plan, model, data, output, settings):
    """The logged losses of a run, and the gradients of every step, all tensors in one list."""
    found = []

    def noted(self, args, state, control, model, **_):
        trained = sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)
        found.append(torch.cat([p.grad.flatten() for _, p in trained]).tolist())

    before, MonitorCallback.on_pre_optimizer_step = MonitorCallback.on_pre_optimizer_step, noted
    try:
        report = trainer.train(Plan.load(plan), model, data, output, trainer.TrainSettings.model_validate_json(settings))
    finally:
        MonitorCallback.on_pre_optimizer_step = before
    return {"losses": [point.loss for point in report.curve], "gradients": found}


def digest(model):
    """Of every trained tensor, to the bit."""
    whole = hashlib.sha256()
    for name, tensor in sorted(trained_state(model).items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


if __name__ == "__main__":
    what, noted_in, *arguments = sys.argv[1:]
    torch.distributed.init_process_group("gloo")
    index = torch.distributed.get_rank()
    found = {"observe": observe, "disagree": disagree, "train": train, "gradients": gradients}[what](index, *arguments)
    Path(f"{noted_in}-{index}").write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
