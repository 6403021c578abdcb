"""What rebuilding a run's model takes beside its tensors."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from spectra import InputError
from spectra.core.documents import Value
from spectra.core.files import read_json
from trainer.adapters.reference_logits import ReferenceLogits
from trainer.run_folder import CONFIG
from trainer.settings import DataSettings, Exact, MixtureSettings, Task


class AdapterConfig(Value):
    """Everything but the tensors that rebuilding a run's model takes."""

    version: Literal[3] = 3
    base_model_name_or_path: str
    task: Task
    labels: tuple[str, ...]
    label_counts: tuple[Annotated[int, Field(ge=1)], ...]
    """Training examples per label, in the order of `labels`."""
    data: DataSettings
    """How the run's data became tokens, with nothing left open."""
    chat_template: str | None = None
    """Text of the chat template, where it is not the tokenizer's own."""
    conversations: bool = False
    """Whether the run learned conversations."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seed of the head's initial weights."""
    pad_token_id: int | None
    """The tokenizer's padding token."""
    base_weights: str
    """Identifies the base's values, so that another training of the same architecture is not taken for it."""
    precision: Exact = "fp32"
    """Precision that the run's frozen weights had."""
    mixture: MixtureSettings
    reference: ReferenceLogits | None = None
    """What the trained model answered when it was saved."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.label_counts) != len(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{len(self.label_counts)} label_counts for {len(set(self.labels))} different labels")
        if (self.task == "classification") != (len(self.labels) > 1):
            raise ValueError(f"task {self.task} with {len(self.labels)} labels")
        if self.data.max_length == "auto":
            raise ValueError("max_length is left open; a run has a number")
        return self


def load_config(folder: str | Path) -> AdapterConfig:
    """Read a run's configuration.

    Raises:
        InputError: not a finished run, or a configuration that this loraplan cannot read.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise InputError(f"{folder}: not a finished run: no {CONFIG}")
    return AdapterConfig.checked(read_json(path, finite=True), path)
