"""Every option of a run, alone and in pairs: it changes what is trained, or is refused by name; none is ignored."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from spectra import InputError
from tests import models
from tests.trainer.examples import uniform, with_ranks
from trainer import TrainSettings, train
from trainer.run_folder import WEIGHTS
from trainer.settings import GrowthSettings

USUAL = TrainSettings(max_steps=20, batch_size=8, max_length=16, learning_rate=1e-2, precision="fp32", warmup=0.0, alpha=2.0)
OTHER = {
    "router": "constant", "balance_loss": 0.5, "z_loss": 0.5, "dropout": 0.5, "init": "svd", "train_router": True, "alpha": 8.0,
    "growth_events": 3, "growth_penalty": 4.0, "growth_per_event": 1.0, "growth_start": 1, "growth_most": 4,
    "growth_tokens": "all", "growth_handout": "one-pass", "grow": True, "growth_every": 5, "growth_decay": 0.1,
    "growth_share": "softmax", "growth_reset": True, "saliency": "absolute", "epochs": 5.0, "max_steps": 5, "batch_size": 4,
    "accumulation": 2, "learning_rate": 2e-2, "lr_ratio": 4.0, "warmup": 4, "weight_decay": 100.0, "max_length": 4,
    "loss_on": "all", "packing": True, "shard": True, "group_by_length": True, "gradient_checkpointing": True,
    "schedule": "cosine", "evaluations": 1, "patience": 1, "report_to": "tensorboard", "precision": "bf16", "seed": 1,
    "columns": "prompt=completion,completion=prompt", "role_map": "a=user", "turns": "last", "chat_template": "chatml",
    "template_option": "a=b", "template_date": "2026-01-31", "join": "space",
}  # fmt: skip
# What has to be so that an option can change anything.
NEEDS = {name: {"grow": True} for name in GrowthSettings.model_fields if name != "grow"} | {"epochs": {"max_steps": 0}}
NEEDS |= {name: {"grow": True, "growth_events": 2} for name in ("growth_per_event", "growth_handout")}  # ranks to choose about
WATCHED = {"evaluations", "patience"}  # which need a file to score
SAME_WEIGHTS = {
    "gradient_checkpointing",
    "evaluations",
    "patience",
    "report_to",
    "join",  # where a word-level tokenizer drops spaces
}  # the same update, or something else than weights
ROUNDING = {"accumulation"}  # the same update up to rounding, which routers amplify; test_one_update.py compares it
REFUSED = {"shard": "`shard` splits the frozen weights among processes, and there is one"}
REFUSED |= {
    name: f"`{name}` has no effect on data without conversations"
    for name in ("role_map", "turns", "chat_template", "template_option", "template_date")
}


@pytest.fixture(scope="module")
def beds(tiny_olmoe, tiny_llama, tmp_path_factory):
    """Plans and data on which options mean something: mixtures on a dense model, and routed experts."""
    folder = tmp_path_factory.mktemp("options")
    data = models.sentences(folder / "text.jsonl")
    pairs = folder / "pairs.jsonl"
    lines = data.read_text().splitlines()
    pairs.write_text("\n".join(line.replace('"text": "', '"prompt": "the file", "completion": " ') for line in lines) + "\n")
    mixtures = uniform(tiny_llama, "30k", expert_rank=4, max_experts=3, max_rank=12)
    routed = with_ranks(uniform(tiny_olmoe, "rank 4", max_experts=1), lambda site: (4,) if site.routed else ())
    return {"mixtures": (mixtures, tiny_llama, pairs), "routed": (routed, tiny_olmoe, pairs)}


OF_ROUTED = {"train_router"}


def run(bed, folder, changes, watched):
    plan, model, data = bed
    settings = TrainSettings.model_validate(USUAL.model_dump() | changes)
    report = train(plan, model, data, folder, settings, evaluation=data if watched else None)
    return report, load_file(folder / WEIGHTS)


def bed_of(beds, *names):
    return beds["routed" if OF_ROUTED & set(names) else "mixtures"]


def settings_for(*names):
    """What has to be so, the options' other values, and whether a file is scored."""
    needed = {key: value for name in names for key, value in NEEDS.get(name, {}).items()}
    return needed, {name: OTHER[name] for name in names}, bool(WATCHED & set(names))


def test_every_option_has_another_value_here():
    assert OTHER.keys() == TrainSettings.model_fields.keys()
    assert all(OTHER[name] != getattr(USUAL, name) for name in OTHER)


@pytest.mark.training
@pytest.mark.parametrize("name", OTHER)
def test_every_option_alone_changes_what_is_trained_or_is_refused(name, beds, tmp_path):
    needed, changed, watched = settings_for(name)
    bed = bed_of(beds, name)
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]):
            run(bed, tmp_path / "run", needed | changed, watched)
        return
    before, weights = run(bed, tmp_path / "usual", needed, watched)
    after, others = run(bed, tmp_path / "other", needed | changed, watched)
    same = weights.keys() == others.keys() and all(
        weights[key].shape == others[key].shape and torch.allclose(weights[key], others[key], rtol=1e-4, atol=1e-6)
        for key in weights
    )
    assert same == (name in SAME_WEIGHTS) or name in ROUNDING
    if name == "evaluations":
        assert (len(before.evaluations), len(after.evaluations)) == (10, 1)
    if name == "report_to":
        assert any((tmp_path / "other").rglob("events.out.tfevents*"))


PAIRS = list(itertools.combinations(OTHER, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_every_pair_of_options_works_or_is_refused_by_name(one, other, beds, tmp_path):
    needed, changed, watched = settings_for(one, other)
    refused = None
    try:
        run(bed_of(beds, one, other), tmp_path / "run", needed | changed, watched)
    except InputError as error:
        refused = str(error)
    if refused is not None:
        assert any(f"`{name}`" in refused for name in (*changed, *needed)), refused
        assert not (tmp_path / "run" / WEIGHTS).exists()
