"""Questions answered by likelihood, against lm-evaluation-harness's definition, one choice at a time."""

import pytest
import torch
import transformers

from tests.reference.multiple_choice import reference_picks
from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.evaluation import multiple_choice as module
from trainer.evaluation.multiple_choice import choices_mask, picks_of, questions_of

PROMPTS = ["the", "read a", "file of set ", "error value of the list"]
CHOICES = ["open", " the file", "a list of dict", "close set class read write"]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tiny_llama, tiny_gpt2):
    folder = tiny_llama if request.param == "llama" else tiny_gpt2
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def asked(tmp_path, words, rows, max_length=32):
    return questions_of(read_texts(write_rows(tmp_path / "q.jsonl", rows), evaluation=True), words, max_length)


def rows_of(count):
    return [{"prompt": PROMPTS[n % 4], "choices": CHOICES[n % 2 : 3 + n % 2], "answer": n % 3} for n in range(count)]


def test_of_long_prompts_the_end_is_kept_and_choices_are_cut_last(tmp_path, words):
    row = {"prompt": "read write the file", "choices": ["open", "a list of dict set class"], "answer": 0}
    (question,) = asked(tmp_path, words, [row], max_length=4)
    assert [words.decode(ids) for ids in question.prompts] == ["write the file", "file"]
    assert [words.decode(ids) for ids in question.choices] == ["open", "a list of"]
    assert not question.shared


@pytest.mark.parametrize("packed", [True, False])
@torch.inference_mode()
def test_picks_are_those_of_the_harness_question_by_question(tmp_path, words, model, monkeypatch, packed):
    monkeypatch.setattr(module, "tokens_at_a_time", lambda model: 60)
    if not packed:
        monkeypatch.setattr(module, "_can_pack", lambda *_: False)
    rows = rows_of(24)
    seen = []
    found = picks_of(model, asked(tmp_path, words, rows), words, seen.append)
    for row, pick, normalised, loss in zip(rows, found.picks, found.normalised, found.losses, strict=True):
        best, best_normalised, likelihoods = reference_picks(model, words, row["prompt"], row["choices"])
        assert (pick, normalised) == ((best, row["answer"]), (best_normalised, row["answer"]))
        tokens = len(words(row["choices"][row["answer"]])["input_ids"])
        assert loss == pytest.approx(-likelihoods[row["answer"]] / tokens, rel=1e-4)
    assert found.task == "multiple-choice"
    assert seen == sorted(seen)
    assert (len(seen) > 3, seen[-1]) == (True, 24)


def test_a_model_that_ignores_the_mask_is_asked_choice_by_choice(tmp_path, words, model, monkeypatch):
    questions = asked(tmp_path, words, rows_of(4))
    assert module._can_pack(model, questions[3], words)
    whole = module.choices_mask
    monkeypatch.setattr(module, "choices_mask", lambda owners: torch.zeros_like(whole(owners)))
    assert not module._can_pack(model, questions[3], words)
    monkeypatch.setattr(type(model), "_is_stateful", True, raising=False)
    monkeypatch.setattr(module, "choices_mask", whole)
    assert not module._can_pack(model, questions[3], words)


def test_a_choice_sees_the_prompt_and_itself():
    seen = choices_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0],
    ]
