"""`plan merge`: a run without routers as an ordinary checkpoint, every adapter folded into its weight."""

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

from spectra import InputError
from trainer.adapters.store import PARITY, disagreement, find_base, load_adapters, load_config, merged, probe
from trainer.base_model import load_tokenizer


def merge(run: str | Path, output: str | Path, *, base: str | Path | None = None) -> Path:
    """Write a run's model with its adapters folded in, in Hugging Face layout, tokenizer included.

    Args:
        run: what `plan train` wrote, of a plan without routers.
        output: a folder that is not there yet.
        base: the base model, if it has moved.

    Returns:
        The folder.

    Raises:
        InputError: a mixture with a router, an output that exists, or logits that changed by more than rounding.
    """
    output = Path(output)
    if output.exists():
        raise InputError(f"{output}: already exists; choose another folder")
    model, precision = load_adapters(run, base), load_config(run).mixture.base_precision
    before = probe(model)
    if not (error := disagreement(probe(merged(model)), before)) <= PARITY[precision]:
        raise InputError(f"{run}: merging changes logits by {error:.3g} of the largest; nothing was written")
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        model.save_pretrained(beside)
        load_tokenizer(find_base(load_config(run), base).folder).save_pretrained(beside)
        beside.rename(output)
    except (OSError, SafetensorError) as fault:
        raise InputError(f"{output}: cannot write: {getattr(fault, 'strerror', None) or fault}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return output
