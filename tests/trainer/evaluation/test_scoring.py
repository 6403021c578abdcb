"""What one model answers: losses and picks against one example at a time, and greedy continuations."""

import pytest
import torch
import transformers

from planner.modules.labelled import example_losses
from spectra import open_checkpoint
from tests.trainer.examples import write_rows
from trainer.base_model import load_model
from trainer.data.dataset import read_texts
from trainer.data.tokenize import tokenise
from trainer.evaluation import scoring
from trainer.evaluation.metrics import Answers
from trainer.evaluation.scoring import answers_of, with_generated


@pytest.fixture(scope="module")
def language_model(tiny_llama):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


def texts(tmp_path, rows):
    return read_texts(write_rows(tmp_path / "data.jsonl", rows))


@torch.inference_mode()
def test_losses_are_those_of_each_text_alone(language_model, words, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "tokens_at_a_time", lambda model: 24)
    rows = [{"text": " ".join(["the file", "read", "a list of"][number % 3] for _ in range(1 + number % 5)) + " open"}
            for number in range(20)]  # fmt: skip
    examples = tokenise(texts(tmp_path, rows), words, 32)
    seen = []
    found = answers_of(language_model, examples, words, seen.append)
    alone = [
        example_losses(language_model(torch.tensor([ids])).logits, torch.tensor([ids])).item()
        for ids in examples.rows["input_ids"]
    ]
    assert sorted(found.losses) == pytest.approx(sorted(alone), rel=1e-4)
    assert (found.task, list(found.picks), list(found.generated)) == ("causal", [], [])
    assert seen == sorted(seen)
    assert (len(seen) > 3, seen[-1]) == (True, 20)


@torch.inference_mode()
def test_a_classifier_picks_its_largest_logit(tiny_llama, words, tmp_path):
    model = load_model(open_checkpoint(tiny_llama), "classification", ("a", "b", "c"), seed=0, pad_token_id=2).eval()
    rows = [{"text": f"{word} the file", "label": label} for word in ("open", "read", "close") for label in "abc"]
    examples = tokenise(texts(tmp_path, rows), words, 8, ("a", "b", "c"))
    found = answers_of(model, examples, words, lambda done: None)
    logits = torch.cat([model(torch.tensor([ids])).logits for ids in examples.rows["input_ids"]])
    labels = torch.tensor(list(examples.rows["labels"]))
    assert found.picks == list(zip(logits.argmax(-1).tolist(), labels.tolist(), strict=True))
    assert found.losses == pytest.approx(torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist(), rel=1e-4)


def test_continuations_are_greedy_and_stand_beside_what_was_asked_for(language_model, words, tmp_path):
    prompts = ["the file", "read a list of the", "open"] * 7
    rows = [{"prompt": prompt, "completion": " close file"} for prompt in prompts]
    examples = tokenise(texts(tmp_path, rows), words, 32)
    before, side = Answers(task="causal", losses=[1.0]), words.padding_side
    found = with_generated(before, language_model, examples, words, 3)
    assert words.padding_side == side
    assert found.losses == before.losses
    expected = []
    for prompt in prompts:
        ids = torch.tensor([words(prompt)["input_ids"]])
        made = language_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=words.pad_token_id
        )
        expected.append(words.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    reference = words.decode(words(" close file")["input_ids"])
    assert sorted(found.generated) == sorted((text, reference) for text in expected)


def test_text_without_a_prompt_never_matches(language_model, words, tmp_path):
    examples = tokenise(texts(tmp_path, [{"text": "the file"}, {"text": "read a"}]), words, 8)
    found = with_generated(Answers(task="causal", losses=[1.0]), language_model, examples, words, 2)
    assert [text == reference for text, reference in found.generated] == [False, False]


def test_a_prompt_ends_where_the_first_answer_begins(language_model, words, tmp_path):
    """Of a conversation the first answer is asked for; what follows it is no reference."""
    row = {"messages": [{"role": role, "content": text} for role, text in
                        (("user", "open"), ("assistant", "the file"), ("user", "close"), ("assistant", "a list"))]}  # fmt: skip
    examples = tokenise(texts(tmp_path, [row]), words, 64)
    ((_, reference),) = with_generated(Answers(task="causal", losses=[1.0]), language_model, examples, words, 1).generated
    assert reference.split() == ["the", "file"]
