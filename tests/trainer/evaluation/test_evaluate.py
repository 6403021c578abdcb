"""Runs on held-out data: beside what costs nothing, per task and over all, and what is refused."""

import json
import math
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from spectra import InputError
from tests.trainer.examples import SHORT, write_rows
from trainer import evaluate, load_adapters, train
from trainer.run_folder import CHECKPOINTS, WEIGHTS

pytestmark = pytest.mark.training


def test_evaluation_stands_beside_what_costs_nothing(run, small_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAPLAN_CACHE", str(tmp_path))  # where no earlier test has kept the untrained model's scores
    seen = []
    result = evaluate(run, small_corpus[1], progress=lambda done, total, note="": seen.append((done, total)))
    assert result.examples == 32
    assert seen[-1] == (64, 64)
    assert result.majority["accuracy"] == 0.25
    assert result.majority["loss"] == pytest.approx(math.log(4))
    assert result.untrained["loss"] == pytest.approx(math.log(4), abs=0.1)
    assert result.trained["loss"] != result.untrained["loss"]
    assert result.trained.keys() == result.untrained.keys() == {"accuracy", "f1", "loss"}
    assert result.majority.keys() == {"accuracy", "loss"}
    (task,) = result.tasks
    assert (task.name, task.trained) == ("test", result.trained)
    assert list(result.rows()) == ["fine-tuned", "untrained", "majority class"]


def test_the_untrained_model_can_be_left_out(run, small_corpus):
    seen = []
    result = evaluate(run, small_corpus[1], untrained=False, progress=lambda done, total, note="": seen.append((done, total)))
    assert result.untrained == {}
    assert list(result.rows()) == ["fine-tuned", "majority class"]
    assert seen[-1] == (32, 32)
    assert result.trained == evaluate(run, small_corpus[1]).trained


def test_of_several_tasks_each_has_a_majority_of_its_own(run, small_corpus, tmp_path):
    rows = [json.loads(line) for line in small_corpus[1].read_text().splitlines()]
    few, one = ([row for row in rows if row["label"] in labels] for labels in (("files", "markup"), ("numeric",)))
    files = [write_rows(tmp_path / "few.jsonl", few + few[:3]), write_rows(tmp_path / "one.jsonl", one)]
    result = evaluate(run, files, untrained=False)
    assert [(task.name, task.examples) for task in result.tasks] == [("few", 19), ("one", 8)]
    counts = sorted(sum(row["label"] == label for row in few + few[:3]) for label in ("files", "markup"))
    assert result.tasks[0].majority["accuracy"] == counts[1] / 19
    assert result.tasks[1].majority == {"accuracy": 1.0, "loss": 0.0}
    for metric in ("accuracy", "loss"):
        pooled = sum(task.trained[metric] * task.examples for task in result.tasks) / 27
        assert result.trained[metric] == pytest.approx(pooled)


def test_texts_that_were_cut_are_counted(run, tmp_path):
    rows = [{"text": "the " * count, "label": "files"} for count in (3, 200, 200)]
    assert evaluate(run, write_rows(tmp_path / "long.jsonl", rows), untrained=False).truncated == 2


def test_a_run_is_not_put_on_another_base(run, minilm, small_corpus, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(minilm, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, other / "model.safetensors")
    with pytest.raises(InputError, match="not the base model of this run: same architecture, other weights"):
        evaluate(run, small_corpus[1], base=other)


def test_damaged_adapters_are_found_before_anything_is_scored(run, small_corpus, tmp_path):
    with pytest.raises(InputError, match=r"not a finished run: no loraplan.json"):
        evaluate(tmp_path, small_corpus[1])
    broken = tmp_path / "broken"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns(CHECKPOINTS))
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-100])
    seen = []
    with pytest.raises(InputError, match=r"adapter_model.safetensors: not a readable safetensors file"):
        evaluate(broken, small_corpus[1], progress=lambda *step, note="": seen.append(step))
    assert seen == []


def test_what_a_run_cannot_answer_is_refused(run, language_run, small_corpus, sentences, tmp_path):
    with pytest.raises(InputError, match=r"`generate` 8 is for language models, and .* is a classifier; leave it out"):
        evaluate(run, small_corpus[1], generate=8)
    with pytest.raises(InputError, match=r"test\.jsonl: has labels, but the run is a language model; give a file without"):
        evaluate(language_run, small_corpus[1])
    with pytest.raises(InputError, match=r"text\.jsonl: no column 'label', but the task is classification"):
        evaluate(run, sentences)
    odd = write_rows(tmp_path / "odd.jsonl", [{"text": "x", "label": "cooking"}])
    with pytest.raises(InputError, match="row 1: label 'cooking' is unknown to the run; it knows concurrency, files"):
        evaluate(run, odd)
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": "the", "choices": ["file", "list"], "answer": 0}])
    with pytest.raises(InputError, match="multiple-choice questions can be evaluated, not trained on"):
        evaluate(run, asked)  # a classifier answers no questions


def choice_loss(model, tokenizer, prompt, choice):
    """Mean loss of the choice's tokens after the prompt, one at a time."""
    before, after = tokenizer(prompt)["input_ids"], tokenizer(" " + choice, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
    return -sum(float(logits[len(before) + at - 1, token]) for at, token in enumerate(after)) / len(after)


def test_language_models_answer_questions_and_generate(llama_plan, tiny_llama, sentences, tmp_path):
    words = sorted({word for line in map(json.loads, sentences.read_text().splitlines()) for word in line["text"].split()})
    rows = [{"prompt": f"{one} {two} ", "completion": f"{one} {one}"} for one in words[:6] for two in words[:6]]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    folder = tmp_path / "run"
    train(llama_plan, tiny_llama, data, folder, SHORT.model_copy(update={"max_steps": 150, "learning_rate": 2e-2}))
    result = evaluate(folder, data, generate=4)
    assert 0 <= result.untrained["exact_match"] <= result.trained["exact_match"] <= 1
    shown = result.tasks[0].generations
    assert [(one.prompt.strip(), one.reference.strip()) for one in shown] == [
        (row["prompt"].strip(), row["completion"]) for row in rows[:3]
    ]
    asked = [
        {"prompt": f"{words[0]} {words[1]}", "choices": [words[0], words[5]], "answer": 0},
        {"prompt": f"{words[3]} {words[2]}", "choices": [f"{words[1]} {words[4]}", words[3]], "answer": words[3]},
    ]
    questions = write_rows(tmp_path / "questions.jsonl", asked)
    scores = evaluate(folder, questions, precision="fp32").trained
    model, tokenizer = load_adapters(folder), transformers.AutoTokenizer.from_pretrained(tiny_llama)
    losses = [[choice_loss(model, tokenizer, question["prompt"], text) for text in question["choices"]] for question in asked]
    assert len({loss for pair in losses for loss in pair}) == 4
    assert scores["accuracy"] == ((losses[0][0] < losses[0][1]) + (losses[1][1] < losses[1][0])) / 2
    assert scores["loss"] == pytest.approx((losses[0][0] + losses[1][1]) / 2, rel=1e-5)
    assert scores.keys() == {"accuracy", "acc_norm", "loss"}
    write_rows(questions, [{"prompt": "one", "choices": ["two"], "answer": 0}])
    with pytest.raises(InputError, match=r"questions.jsonl: row 1: choices are \['two'\]; give a list of at least two"):
        evaluate(folder, questions)
