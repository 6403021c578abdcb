"""One conversation from its file to learned tokens, through training, to a generated answer and back."""

import json

import pytest
import transformers

from spectra import open_checkpoint
from tests.trainer.data.examples import trained
from tests.trainer.examples import uniform, write_rows
from trainer import TrainSettings, evaluate, merge, train
from trainer.adapters.config import load_config
from trainer.base_model import load_tokenizer
from trainer.data.dataset import read_texts
from trainer.data.tokenize import tokenise
from trainer.evaluation.multiple_choice import questions_of
from trainer.evaluation.scoring import prompt_of

pytestmark = pytest.mark.training

# The day and a switch are what would differ between training and asking if they were not kept.
TEMPLATE = (
    "{{ '' if strftime_now('%Y') == '2020' else 'the ' }}{% for m in messages %}"
    "{% if m.role == 'user' %}open {{ m.content }} "
    "{% else %}close {{ '' if quiet else 'the ' }}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}close {{ '' if quiet else 'the ' }}{% endif %}"
)
TALKS = [
    {"question": "read file", "answer": "list value"},
    {"question": "write file", "answer": "dict error string"},
    {"question": "class of a", "answer": "number"},
]
SETTINGS = TrainSettings(
    max_steps=300,
    batch_size=3,
    learning_rate=2e-2,
    alpha=16.0,
    precision="fp32",
    template_date="2020-02-02",
    template_option="quiet=true",
)


def test_what_is_learned_is_what_is_generated(tiny_llama, tmp_path):
    file = write_rows(tmp_path / "talks.jsonl", TALKS)
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    settings = SETTINGS.model_copy(update={"chat_template": str(tmp_path / "mine.jinja")})
    train(uniform(tiny_llama, "rank 8"), tiny_llama, file, tmp_path / "run", settings)
    (tmp_path / "mine.jinja").unlink()

    config = load_config(tmp_path / "run")
    assert (config.conversations, config.chat_template) == (True, TEMPLATE)
    assert (tmp_path / "run" / "chat_template.jinja").read_text() == TEMPLATE
    tokenizer = load_tokenizer(open_checkpoint(tiny_llama).location, config.chat_template)
    for row, said in zip(tokenise(read_texts(file), tokenizer, 32, settings=config.data).rows, TALKS, strict=True):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": said["question"]}], add_generation_prompt=True, tokenize=False, quiet=True
        ).removeprefix("the ")  # the run's day is another
        assert prompt_of(row)[0] == tokenizer(asked, add_special_tokens=False)["input_ids"]
        assert trained(tokenizer, row) == [f"{said['answer']} </s>"]

    (task,) = evaluate(tmp_path / "run", file, generate=8).tasks
    assert task.trained["exact_match"] == 1.0
    assert [one.trained for one in task.generations] == [one["answer"] for one in TALKS]


def test_a_merged_model_has_the_template_and_stops_where_answers_end(tiny_llama, tmp_path):
    file = write_rows(tmp_path / "talks.jsonl", TALKS)
    template = TEMPLATE.replace("eos_token", "'<unk>'")  # a mark that the base's settings do not know
    (tmp_path / "mine.jinja").write_text(template)
    settings = SETTINGS.model_copy(update={"chat_template": str(tmp_path / "mine.jinja"), "max_steps": 2})
    train(uniform(tiny_llama, "rank 1"), tiny_llama, file, tmp_path / "run", settings)
    merge(tmp_path / "run", tmp_path / "merged")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == template
    stops = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.unk_token_id in stops


def test_questions_with_choices_are_asked_as_conversations_were_learned(tiny_llama, tmp_path):
    tokenizer = load_tokenizer(open_checkpoint(tiny_llama).location, TEMPLATE)
    settings = SETTINGS.data()
    file = write_rows(tmp_path / "talks.jsonl", TALKS)
    answers = [talk["answer"] for talk in TALKS]
    rows = [{"question": talk["question"], "choices": answers, "answer": talk["answer"]} for talk in TALKS]
    choices = read_texts(write_rows(tmp_path / "choices.jsonl", rows), evaluation=True)
    learned = tokenise(read_texts(file), tokenizer, 32, settings=settings).rows
    for question, row in zip(questions_of(choices, tokenizer, 32, settings), learned, strict=True):
        prompt, answer = prompt_of(row)
        assert list(question.prompts[0]) == prompt
        assert [*question.choices[question.answer], tokenizer.eos_token_id] == answer
