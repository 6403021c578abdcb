"""Questions answered by likelihood, against one choice at a time."""

import pytest
import torch
import transformers

from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.evaluation.multiple_choice import BATCH, Question, picks_of, questions_of


@pytest.fixture(scope="module")
def model(tiny_llama):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


def asked(tmp_path, words, rows, max_length=32):
    return questions_of(read_texts(write_rows(tmp_path / "q.jsonl", rows), evaluation=True), words, max_length)


def test_a_question_is_its_prompt_with_every_choice_behind(tmp_path, words):
    (question,) = asked(tmp_path, words, [{"prompt": "the file", "choices": ["open", "a list"], "answer": 1}])
    assert question == Question(
        rows=tuple((words(text)["input_ids"], 2) for text in ("the file open", "the file a list")), answer=1
    )


def test_of_long_prompts_the_end_is_kept_and_choices_are_cut_last(tmp_path, words):
    row = {"prompt": "read write the file", "choices": ["open", "a list of dict set class"], "answer": 0}
    (question,) = asked(tmp_path, words, [row], max_length=4)
    (one, start), (other, start_of_other) = question.rows
    assert (words.decode(one), start) == ("write the file open", 3)
    assert (words.decode(other), start_of_other) == ("file a list of", 1)


@torch.inference_mode()
def test_the_likeliest_choice_per_token_is_picked(tmp_path, words, model):
    names = ["open", "the file", "a list of dict", "close set class read write"]
    rows = [{"prompt": prompt, "choices": names[: 2 + number % 3], "answer": number % 2}
            for number, prompt in enumerate(["the", "read a", "file of set", "error"] * 5)]  # fmt: skip
    questions = asked(tmp_path, words, rows)
    assert sum(len(question.rows) for question in questions) > BATCH
    seen = []
    found = picks_of(model, questions, words, seen.append)
    for question, (pick, right), loss in zip(questions, found.picks, found.losses, strict=True):
        alone = []
        for ids, start in question.rows:
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            alone.append(-sum(float(logits[at - 1, ids[at]]) for at in range(start, len(ids))) / (len(ids) - start))
        assert pick == alone.index(min(alone))
        assert right == question.answer
        assert loss == pytest.approx(alone[right], rel=1e-4)
    assert found.task == "multiple-choice"
    assert seen == sorted(seen)
    assert seen[-1] == len(questions)


def test_a_question_counts_as_done_with_its_last_choice(words, model):
    one = Question(rows=(([3, 4], 1),) * (BATCH - 1), answer=0)
    two = Question(rows=(([3, 4], 1), ([3, 5], 1)), answer=1)
    seen = []
    picks_of(model, [one, two], words, seen.append)
    assert seen == [1, 2]
