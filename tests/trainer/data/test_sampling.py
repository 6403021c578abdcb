"""A base model and a sample of its task."""

import pytest
import torch

from spectra import InputError, open_checkpoint
from tests.trainer.examples import write_rows
from trainer import load_sample
from trainer.data.sampling import PROBE_BATCH
from trainer.settings import DataSettings

OPTIONS = {"samples": 8, "settings": DataSettings(max_length=16), "seed": 0}


def ids_of(sample):
    return sorted(tuple(row) for batch in sample.batches for row in batch["input_ids"].tolist())


def test_a_language_model_comes_with_batches_of_its_text(tiny_llama, sentences):
    sample = load_sample(open_checkpoint(tiny_llama), sentences, **OPTIONS | {"samples": 10})
    assert (sample.task, sample.examples, type(sample.model).__name__) == ("causal", 10, "LlamaForCausalLM")
    batches = list(sample.batches)
    assert [len(batch["input_ids"]) for batch in batches] == [PROBE_BATCH, 2]
    assert all(batch["labels"].shape == batch["input_ids"].shape for batch in batches)
    lengths = [length for batch in batches for length in batch["attention_mask"].sum(1).tolist()]
    assert lengths == sorted(lengths, reverse=True), "the longest come first"


def test_a_classifier_has_a_class_for_every_label_of_the_file(tiny_llama, small_corpus):
    sample = load_sample(open_checkpoint(tiny_llama), small_corpus[0], **OPTIONS)
    assert sample.task == "classification"
    assert list(sample.model.config.id2label.values()) == ["concurrency", "files", "markup", "numeric"]
    (batch,) = sample.batches
    assert batch["labels"].shape == (8,)


def test_the_seed_alone_says_what_is_drawn_and_how_a_head_begins(tiny_llama, small_corpus):
    checkpoint = open_checkpoint(tiny_llama)
    torch.manual_seed(3)
    one, again, other = (load_sample(checkpoint, small_corpus[0], **OPTIONS | {"seed": seed}) for seed in (1, 1, 2))
    assert torch.equal(one.model.score.weight, again.model.score.weight)
    assert not torch.equal(one.model.score.weight, other.model.score.weight)
    drawn = [ids_of(sample) for sample in (one, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_nothing_is_drawn_twice_and_a_small_file_is_taken_whole(tiny_llama, tmp_path):
    data = write_rows(tmp_path / "few.jsonl", [{"text": f"the file {word}"} for word in ("open", "read", "close")])
    sample = load_sample(open_checkpoint(tiny_llama), data, **OPTIONS)
    assert sample.examples == 3
    assert len(set(ids_of(sample))) == 3


def test_what_cannot_be_sampled_is_refused(tiny_llama, sentences, tmp_path):
    checkpoint = open_checkpoint(tiny_llama)
    alone = write_rows(tmp_path / "alone.jsonl", [{"text": "the file", "label": "a"}])
    with pytest.raises(InputError, match=r"alone\.jsonl: only one label, 'a'; there is nothing to tell apart"):
        load_sample(checkpoint, alone, **OPTIONS)
    with pytest.raises(InputError, match="device 'nowhere'"):
        load_sample(checkpoint, sentences, **OPTIONS, device="nowhere")
    with pytest.raises(InputError, match=r"`max_length` 4096 is more than the \d+ positions of tiny-llama"):
        load_sample(checkpoint, sentences, **OPTIONS | {"settings": DataSettings(max_length=4096)})


def test_a_probe_may_count_prompts_too(tiny_llama, tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "the file and", "completion": " list"}] * 4)
    given = {"samples": 2, "seed": 0}
    answers, whole = (
        load_sample(open_checkpoint(tiny_llama), path, **given, settings=DataSettings(max_length=16, loss_on=part))
        for part in ("completion", "all")
    )
    counts = [int((next(iter(sample.batches))["labels"] != -100).sum()) for sample in (answers, whole)]
    assert counts[0] < counts[1]


def test_what_a_classifiers_loss_counts_cannot_be_chosen(tiny_llama, tmp_path):
    path = write_rows(tmp_path / "l.jsonl", [{"text": "the file", "label": label} for label in "ab"])
    with pytest.raises(InputError, match="`loss_on` has no effect on a classifier"):
        load_sample(open_checkpoint(tiny_llama), path, samples=2, settings=DataSettings(max_length=16, loss_on="all"), seed=0)
