"""What the trainer's tests share: short settings, rows in files, plans of a wanted shape, logits of any model."""

import json

import torch

import planner
from planner import AllocationSettings, Plan
from spectra import open_checkpoint
from trainer import TrainSettings
from trainer.run_folder import WEIGHTS

SHORT = TrainSettings(max_steps=6, batch_size=8, max_length=32, learning_rate=1e-2, precision="fp32")


def write_rows(path, rows):
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def uniform(model, budget, **settings):
    """A uniform plan for the model in a folder."""
    return planner.allocate(budget, AllocationSettings(strategy="uniform", **settings), model=open_checkpoint(model))


def with_ranks(plan, ranks_of):
    """The plan with other ranks, one expert or none at each site, its budget adjusted."""
    changed = [(site, ranks_of(site)) for site in plan.sites]
    sites = tuple(site.model_copy(update={"ranks": ranks, "top_k": min(1, len(ranks))}) for site, ranks in changed)
    size = sum(site.parameters for site in sites)
    budget = plan.budget.model_copy(update={"spent": size, "parameters": size, "limit": max(size, plan.budget.limit)})
    return Plan.model_validate(plan.model_copy(update={"sites": sites, "budget": budget, "optimum": None}).model_dump())


def logits(model):
    """What a model answers to two fixed rows of tokens."""
    ids = torch.arange(5, 29).reshape(2, 12) % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def kill_at(wanted):
    """Progress that ends a run after a step."""

    def progress(step, total=None, note=""):
        if step == wanted:
            raise RuntimeError("killed")

    return progress


def newest_checkpoint(run):
    return max(run.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def assert_same_bytes(one, other, names=(WEIGHTS,)):
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
