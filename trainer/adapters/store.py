"""Adapters on disk: what a run leaves behind, and how it becomes a model again.

adapter_model.safetensors    the trained tensors
adapter_config.json          PEFT's own configuration where the plan has no routers, so that PEFT loads the folder; else a
                             peft_type that PEFT refuses instead of misreading
loraplan.json                which base model, which task, how to rebuild, and a probe's logits
plan.json                    the plan that was built

Without routers the tensors are in PEFT's names, and every B carries its expert's scaling, so that lora_alpha / r is 1 everywhere:
programs that read one scale for all modules get it right too. Saving and loading both end by comparing logits on the probe.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from planner import Plan, require_match
from planner.modules.linear import add_to_weight
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.core.distributed import is_first
from spectra.core.documents import Value, read_json, write_atomic
from trainer.adapters.peft import from_stock, is_stock, stock_config, to_stock
from trainer.adapters.peft_experts import packed_ranks
from trainer.base_model import head, load_model
from trainer.data.dataset import TaskKind
from trainer.initializers.svd import settle, started
from trainer.layers.expert_lora import NAME as EXPERTS
from trainer.layers.expert_lora import expert_loras, fold
from trainer.layers.inject import apply_plan, mixtures
from trainer.report import MixtureSettings

WEIGHTS, PEFT_CONFIG, CONFIG, PLAN = "adapter_model.safetensors", "adapter_config.json", "loraplan.json", "plan.json"
PROBE_TOKENS = 16
# Of the largest logit: beyond rounding on another machine, far below any wrong weight. One rounding of bfloat16 is 0.004.
PARITY = {"fp32": 1e-3, "bf16": 3e-2}


class Probe(Value):
    """A fixed row of tokens and a model's logits on it: of the classes, or of the vocabulary's first tokens."""

    ids: tuple[int, ...]
    logits: tuple[float, ...]


class AdapterConfig(Value):
    """Everything but the tensors that rebuilding a run's model takes."""

    version: Literal[1] = 1
    base_model_name_or_path: str
    kind: TaskKind
    labels: tuple[str, ...]
    label_counts: tuple[Annotated[int, Field(ge=1)], ...]
    """Training examples per label, in the order of `labels`."""
    max_length: int
    loss_on: Literal["completion", "all"] = "completion"
    seed: int
    """Of the head's initial weights."""
    pad_token_id: int | None
    """The tokenizer's padding token."""
    base_weights: str
    """Identifies the base's values, so that another training of the same architecture is not taken for it."""
    mixture: MixtureSettings
    probe: Probe | None = None
    """What the trained model answered when it was saved."""


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every trainable tensor by name, on the CPU, and the starting values of experts that did not start at zero."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in _trained(model).items()}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    starts = {f"{name}.{part}": getattr(layer, part) for name, layer in started(model).items() for part in ("A0", "B0")}
    padded = {id(parameter) for lora in expert_loras(model).values() for parameter in lora.parameters()}
    plain = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad and id(tensor) not in padded}
    packed = {f"{name}.{key}": value for name, lora in expert_loras(model).items() for key, value in lora.packed().items()}
    return plain | packed | starts


def save_adapters(folder: str | Path, model: Any, plan: Plan, config: AdapterConfig) -> None:
    """Write a run's adapters, configuration and plan, and check that what is on disk is what is in memory.

    Of several processes all must call this, for the probe; the first one writes.

    Raises:
        InputError: a file cannot be written, or does not hold what was written.
    """
    folder = Path(folder)
    state = trained_state(model)
    stock = is_stock(plan)
    written = to_stock(model, state) if stock else state
    noted = config.model_copy(update={"probe": probe(model)})
    if not is_first():
        return
    write_atomic(folder / WEIGHTS, save(written, metadata={"format": "pt"}))
    marker = (
        stock_config(
            plan,
            config.base_model_name_or_path,
            config.kind,
            list(head(model)),
            packed_ranks(model),
            doubled=bool(started(model)),
        )
        if stock
        else _refusal(config)
    )
    write_atomic(folder / PEFT_CONFIG, json.dumps(marker, indent=2) + "\n")
    write_atomic(folder / CONFIG, noted.model_dump_json(indent=2) + "\n")
    plan.save(folder / PLAN)
    back = load_file(folder / WEIGHTS)
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


@torch.no_grad()
def probe(model: Any) -> Probe:
    """Run a fixed row of tokens through a model, in the precision of its weights even while a run uses another."""
    text = model.config.get_text_config()
    ids = [(97 * position + 11) % text.vocab_size for position in range(PROBE_TOKENS)]
    ids = [(token + 1) % text.vocab_size if token == text.pad_token_id else token for token in ids]
    training = model.training
    model.eval()
    row = torch.tensor([ids], device=next(model.parameters()).device)
    wrapped = vars(model).pop("forward", None)  # a Trainer in mixed precision has wrapped the class's own
    logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
    if wrapped is not None:
        model.forward = wrapped
    model.train(training)
    last = logits[0] if logits.ndim == 2 else logits[0, -1]
    return Probe(ids=tuple(ids), logits=tuple(last[:PROBE_TOKENS].float().cpu().tolist()))


def require_parity(model: Any, config: AdapterConfig, path: Path) -> None:
    """Compare a loaded model's logits with those that were noted when it was saved.

    Raises:
        InputError: they differ by more than rounding.
    """
    if (
        config.probe is not None
        and not (error := disagreement(probe(model), config.probe)) <= PARITY[config.mixture.base_precision]
    ):
        raise InputError(
            f"{path}: the loaded model's logits differ by {error:.3g} of the largest from those noted then; wrong base model?"
        )


def disagreement(one: Probe, other: Probe) -> float:
    """Largest difference of two probes' logits, relative to the largest logit or 1."""
    pairs = list(zip(one.logits, other.logits, strict=True))
    return max(abs(a - b) for a, b in pairs) / max(1.0, *(abs(b) for _, b in pairs))


def load_config(folder: str | Path) -> AdapterConfig:
    """Read a run's configuration.

    Raises:
        InputError: not a finished run, or a configuration of another kind.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"{folder}: not a finished run: no {CONFIG}")
    return AdapterConfig.checked(read_json(path), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        InputError: the file is unreadable, or holds values that are not finite.
    """
    try:
        stored: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    for name, tensor in stored.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name!r} holds NaN or infinite values")
    return stored


def load_state(path: Path, model: nn.Module, plan: Plan | None = None) -> None:
    """Fill a model's trainable tensors from a file.

    Args:
        path: a checkpoint's or a run's tensors.
        model: as built from the plan.
        plan: the run's plan, for a finished run, whose tensors may be in PEFT's names.

    Raises:
        InputError: the file is unreadable, or its tensors are not exactly the model's trainable ones.
    """
    stored: Mapping[str, Tensor] = read_state(path)
    if plan is not None and is_stock(plan):
        stored = from_stock(model, stored)
    wanted = _trained(model)
    if odd := sorted(stored.keys() ^ wanted.keys()):
        where = "in the file but not in the model" if odd[0] in stored else "in the model but not in the file"
        raise InputError(f"{path}: tensor {odd[0]!r} is {where}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if stored[name].shape != parameter.shape:
                raise InputError(f"{path}: {name!r} has shape {list(stored[name].shape)}, the model {list(parameter.shape)}")
            if not name.endswith((".A0", ".B0")):
                parameter.copy_(stored[name])
    for name, lora in expert_loras(model).items():
        lora.unpack({key: stored[f"{name}.{key}"] for key in lora.packed()})
    for name, layer in started(model).items():
        settle(layer, stored[f"{name}.A0"], stored[f"{name}.B0"])


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
    loaded = load_model(checkpoint, config.kind, config.labels, config.seed, config.pad_token_id, config.mixture.base_precision)
    model = apply_plan(loaded, plan, config.mixture)
    for parameter in head(model).values():
        parameter.requires_grad_(True)
    return model


def load_adapters(folder: str | Path, base: str | Path | None = None) -> Any:
    """Rebuild a run's fine-tuned model, and check its logits against those when it was saved.

    Args:
        folder: what `plan train` wrote, or its folder `best`.
        base: the base model, if it is no longer where the run found it.

    Returns:
        The transformers model in evaluation mode.

    Raises:
        InputError: not a run, a base model that does not fit its plan, or damaged files.
    """
    folder = Path(folder)
    config = load_config(folder)
    checkpoint = find_base(config, base)
    plan = Plan.load(folder / PLAN)
    model = build(checkpoint, plan, config)
    load_state(folder / WEIGHTS, model, plan)
    require_parity(model, config, folder / WEIGHTS)
    return model.eval()


@torch.no_grad()
def merged(model: Any) -> Any:
    """Fold every adapter into its base layer's weight, in place, and put the base layers back.

    Raises:
        InputError: a site with a router, whose effect depends on the token, or a quantised base.
    """
    for name, mixture in mixtures(model).items():
        if mixture.router is not None:
            raise InputError(
                f"site {name!r} has a router: a mixture cannot be folded into one weight; load it with load_adapters"
            )
        weight = mixture.base.weight
        assert isinstance(weight, Tensor)
        if not weight.is_floating_point():
            raise InputError(f"site {name!r}: its base is quantised; load the model unquantised to merge")
        add_to_weight(mixture.base, math.prod(mixture.scalings) * (mixture.B.double() @ mixture.A.double()))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, mixture.base)
    for name in expert_loras(model):
        fold(model.get_submodule(name.removesuffix("." + EXPERTS)))
    return model
