"""Adapters on disk: what a run leaves behind, and how it becomes a model again.

adapter_model.safetensors    the trained tensors
adapter_config.json          PEFT's own configuration where no router is trained, so that PEFT loads the folder; else a
                             peft_type that PEFT refuses instead of misreading
loraplan.json                which base model, which task, how to rebuild, and the model's logits on a fixed row of tokens
plan.json                    the plan that was built
chat_template.jinja          the chat template, where one was chosen in place of the tokenizer's

Without routers the tensors are in PEFT's names, and every B carries its expert's scaling, so that lora_alpha / r is 1 everywhere:
programs that read one scale for all modules get it right too. Saving and loading both end by comparing logits on that row.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from planner import Plan, require_match
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.core.distributed import is_main_process
from spectra.core.files import write_atomic
from trainer.adapters.config import AdapterConfig, load_config
from trainer.adapters.peft import is_peft_compatible, peft_config, to_peft
from trainer.adapters.peft_experts import tensor_ranks
from trainer.adapters.reference_logits import reference_logits, require_same_logits
from trainer.adapters.tensors import load_state, trained_state
from trainer.base_model import head, load_model, resolved
from trainer.layers.base_routers import unfreeze_routers
from trainer.layers.inject import apply_plan
from trainer.layers.offset import offset_mixtures
from trainer.limits import DivergedError
from trainer.run_folder import CONFIG, PEFT_CONFIG, PLAN, TEMPLATE, WEIGHTS
from trainer.settings import Exact, Precision


def save_adapters(folder: str | Path, model: Any, plan: Plan, config: AdapterConfig) -> None:
    """Write a run's adapters, configuration and plan, and check that what is on disk is what is in memory.

    Of several processes all must call this, because sharded models run on all; the main one writes.

    Raises:
        InputError: a file cannot be written, or does not hold what was written.
        DivergedError: weights or logits are not finite; nothing is written.
    """
    folder = Path(folder)
    state = trained_state(model)
    compatible = is_peft_compatible(plan) and not config.mixture.train_router
    written = to_peft(model, state) if compatible else state
    # Before the other processes leave: a sharded model runs only if all of them do.
    noted = config.model_copy(update={"reference": (answered := reference_logits(model))})
    # The last step's update is seen by no loss. Nothing is written of a run that nobody could load.
    if not all(map(math.isfinite, answered.logits)) or not all(bool(torch.isfinite(one).all()) for one in state.values()):
        raise DivergedError("weights are not finite after the last step; lower the learning rate")
    if not is_main_process():
        return
    # The tensors first, what describes them after: a folder without configuration is no finished run.
    write_atomic(folder / WEIGHTS, save(written, metadata={"format": "pt"}))
    marker = (
        peft_config(
            plan,
            config.base_model_name_or_path,
            config.task,
            list(head(model)),
            tensor_ranks(model),
            doubled=bool(offset_mixtures(model)),
        )
        if compatible
        else _refusal(config)
    )
    write_atomic(folder / PEFT_CONFIG, json.dumps(marker, indent=2) + "\n")
    if config.chat_template:
        write_atomic(folder / TEMPLATE, config.chat_template)
    write_atomic(folder / CONFIG, noted.model_dump_json(indent=2) + "\n")
    plan.save(folder / PLAN)
    # Now, while the tensors are still in memory.
    back = load((folder / WEIGHTS).read_bytes())
    if back.keys() != written.keys() or not all(torch.equal(back[name], written[name]) for name in back):
        raise InputError(
            f"{folder / WEIGHTS}: reading it back gives other values than were written; the disk is not to be trusted"
        )


def _refusal(config: AdapterConfig) -> dict[str, str]:
    return {
        "peft_type": "LORAPLAN_MIXTURE",
        "base_model_name_or_path": config.base_model_name_or_path,
        "load_with": "trainer.load_adapters",
    }


def find_base(config: AdapterConfig, base: str | Path | None) -> Checkpoint:
    """Open a run's base model, where the run found it or where the user says it is now.

    Raises:
        InputError: it is not there.
    """
    try:
        return open_checkpoint(base or config.base_model_name_or_path)
    except InputError as error:
        hint = "" if base else "; if the base model has moved, say where with `base`"
        raise InputError(f"{error}{hint}") from None


def build(checkpoint: Checkpoint, plan: Plan, config: AdapterConfig, precision: Exact = "fp32", base: Any = None) -> Any:
    """The model of a run before its first step: base in the given precision, new head, experts that change nothing yet.

    A base that is loaded already, as `load_model` would, may be given and becomes the model.
    """
    require_match(plan, checkpoint)
    # The plan's fingerprint holds names and shapes alone, and would pass another training of the same architecture.
    if checkpoint.weights != config.base_weights:
        raise InputError(f"{checkpoint.location}: not the base model of this run: same architecture, other weights")
    loaded = base or load_model(checkpoint, config.task, config.labels, config.seed, config.pad_token_id, precision)
    model = apply_plan(loaded, plan, config.mixture)
    # Building the plan froze everything but the experts, the new head included.
    for parameter in head(model).values():
        parameter.requires_grad_(True)
    if config.mixture.train_router:
        unfreeze_routers(model)
    return model


def load_adapters(folder: str | Path, base: str | Path | None = None, precision: Precision = "fp32") -> Any:
    """Rebuild a run's fine-tuned model, and check its logits against those when it was saved.

    Args:
        folder: what `plan train` wrote, or its folder `best`.
        base: the base model, if it is no longer where the run found it.
        precision: of the base's weights.

    Returns:
        The transformers model in evaluation mode.

    Raises:
        InputError: not a run, a base model that does not fit its plan, or damaged files.
    """
    folder = Path(folder)
    config = load_config(folder)
    checkpoint = find_base(config, base)
    plan = Plan.load(folder / PLAN)
    model = build(checkpoint, plan, config, exact := resolved(precision))
    load_state(folder / WEIGHTS, model)
    require_same_logits(model, config.reference, (exact, config.precision), folder / WEIGHTS)
    return model.eval()
