"""What a run leaves behind, and how to get the model back from it.

adapter_model.safetensors    every trained tensor under its name in the live model: A, B and router of each site, and a task head
adapter_config.json          which base model, which task, how to rebuild; a peft_type that PEFT refuses instead of misreading
plan.json                    the plan that was built
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from planner import Plan, require_match
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.values import Value, read_json, write_atomic
from trainer.build import apply_plan
from trainer.data import TaskKind
from trainer.models import head, load_model

WEIGHTS, CONFIG, PLAN = "adapter_model.safetensors", "adapter_config.json", "plan.json"


class AdapterConfig(Value):
    """Everything but the tensors that rebuilding a run's model takes."""

    peft_type: Literal["LORAPLAN_MIXTURE"] = "LORAPLAN_MIXTURE"
    version: Literal[1] = 1
    base_model_name_or_path: str
    kind: TaskKind
    labels: tuple[str, ...]
    label_counts: tuple[Annotated[int, Field(ge=1)], ...]
    """Training examples per label, in the order of `labels`."""
    max_length: int
    seed: int
    """Of the head's initial weights."""
    pad_token_id: int | None
    """The tokenizer's padding token."""
    base_weights: str
    """Identifies the base's values, so that another training of the same architecture is not taken for it."""


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every trainable tensor by name, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.named_parameters() if tensor.requires_grad}


def save_adapters(folder: str | Path, model: nn.Module, plan: Plan, config: AdapterConfig) -> None:
    """Write a run's adapters, configuration and plan.

    Raises:
        InputError: a file cannot be written.
    """
    folder = Path(folder)
    write_atomic(folder / WEIGHTS, save(trained_state(model), metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    plan.save(folder / PLAN)


def load_config(folder: str | Path) -> AdapterConfig:
    """Read a run's configuration.

    Raises:
        InputError: not a finished run, or a configuration of another kind.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"{folder}: not a finished run: no {CONFIG}")
    return AdapterConfig.checked(read_json(path), path)


def load_state(path: Path, model: nn.Module) -> None:
    """Fill a model's trainable tensors from a file.

    Raises:
        InputError: the file is unreadable, or its tensors are not exactly the model's trainable ones.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if odd := sorted(stored.keys() ^ wanted.keys()):
        where = "in the file but not in the model" if odd[0] in stored else "in the model but not in the file"
        raise InputError(f"{path}: tensor {odd[0]!r} is {where}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if stored[name].shape != parameter.shape:
                raise InputError(f"{path}: {name!r} has shape {list(stored[name].shape)}, the model {list(parameter.shape)}")
            parameter.copy_(stored[name])


def find_base(config: AdapterConfig, base: str | Path | None) -> Checkpoint:
    """Open a run's base model, where the run found it or where the user says it is now.

    Raises:
        InputError: it is not there.
    """
    try:
        return open_checkpoint(base or config.base_model_name_or_path)
    except InputError as error:
        hint = "" if base else "; if the base model has moved, say where with --model"
        raise InputError(f"{error}{hint}") from None


def build(checkpoint: Checkpoint, plan: Plan, config: AdapterConfig) -> Any:
    """The model of a run before its first step: base, new head, experts that change nothing yet."""
    require_match(plan, checkpoint)
    if checkpoint.weights != config.base_weights:
        raise InputError(f"{checkpoint.folder}: not the base model of this run: same architecture, other weights")
    model = apply_plan(load_model(checkpoint, config.kind, config.labels, config.seed, config.pad_token_id), plan)
    for parameter in head(model).values():
        parameter.requires_grad_(True)
    return model


def load_adapters(folder: str | Path, base: str | Path | None = None) -> Any:
    """Rebuild a run's fine-tuned model.

    Args:
        folder: what `plan train` wrote.
        base: the base model, if it is no longer where the run found it.

    Returns:
        The transformers model in evaluation mode.

    Raises:
        InputError: not a run, a base model that does not fit its plan, or damaged files.
    """
    folder = Path(folder)
    config = load_config(folder)
    checkpoint = find_base(config, base)
    model = build(checkpoint, Plan.load(folder / PLAN), config)
    load_state(folder / WEIGHTS, model)
    return model.eval()
