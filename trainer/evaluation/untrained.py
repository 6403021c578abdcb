"""What a base model answers before any training, kept so that every model and file are scored once.

A user evaluates one run after another on the same file, and the untrained model answers alike each time. Its answers are kept in
the user's cache folder and not beside the model, which is often read-only or shared.
"""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from spectra import Checkpoint, InputError
from spectra.core.documents import Value
from spectra.core.files import cache_folder, write_atomic
from trainer.adapters.config import AdapterConfig
from trainer.data.files import content_sha256
from trainer.report import Scores
from trainer.settings import Exact


class Untrained(Value):
    """The untrained model on one file."""

    scores: Scores
    generated: tuple[str, ...] = ()
    """The first few texts that it wrote, if it was asked to."""


def place_of(checkpoint: Checkpoint, file: Path, config: AdapterConfig, precision: Exact, generate: int) -> Path:
    """Where the answers to one question are kept: its name is made of everything that they depend on."""
    # Like make, not a digest of gigabytes: weights that were replaced have another size or time.
    stored = [(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in checkpoint.files]
    asked = config.model_dump(mode="json", include={"task", "labels", "seed", "data", "chat_template", "conversations"})
    whole = [stored, checkpoint.weights, content_sha256(file), asked, precision, generate]
    return cache_folder() / "untrained" / f"{hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]}.json"


def kept(place: Path) -> Untrained | None:
    """Answers that are there and whole."""
    try:
        return Untrained.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None


def keep(place: Path, found: Untrained) -> None:
    """Keep answers; a cache that cannot be written costs time and nothing else."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, found.model_dump_json() + "\n")
    except (OSError, InputError):
        return
