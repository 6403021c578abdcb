"""Evidence for planning: of the pretrained MiniLM, and of tiny models with routed experts."""

import pytest

from trainer.settings import DataSettings


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_small_products():
    """Tiny models are quicker on one thread than on several that wait for each other."""
    from spectra.eigenvalues import threads

    with threads(1):
        yield


@pytest.fixture(scope="session")
def sensitivity(minilm, small_corpus):
    """MiniLM's gradients on 16 texts."""
    import planner
    from spectra import open_checkpoint
    from trainer import load_sample

    checkpoint = open_checkpoint(minilm)
    sample = load_sample(checkpoint, small_corpus[0], samples=16, settings=DataSettings(max_length=32), seed=0)
    return planner.probe(sample.model, sample.batches, checkpoint=checkpoint, effective_rank=True)


@pytest.fixture
def evidence(spectra_report, sensitivity):
    """Both reports on MiniLM, as `allocate` takes them."""
    return {"spectra": spectra_report, "sensitivity": sensitivity}


@pytest.fixture(scope="session", params=["gpt-oss", "mixtral", "olmoe"])
def routed(request, tmp_path_factory):
    """Checkpoint, spectra and sensitivity of a tiny model of routed experts, as `allocate` takes them."""
    import torch

    import planner
    import spectra
    from tests import models

    model, folder = models.build(request.param, vocab_size=50), tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    checkpoint = spectra.open_checkpoint(folder)
    ids = torch.randint(3, 50, (8, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return {
        "model": checkpoint,
        "spectra": spectra.analyze(folder),
        "sensitivity": planner.probe(model, [batch], checkpoint=checkpoint),
    }
