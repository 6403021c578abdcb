"""The table of formats: how a file's columns say what its rows are."""

import json

import datasets
import pytest

from spectra import InputError
from tests.trainer.data.examples import BARE, TALK, talk, turns
from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.data.formats import FORMATS, formats_help, layout_of
from trainer.data.formats.table import REFUSED
from trainer.settings import DataSettings

ASKED = {"prompt": "the file", "choices": ["reads", "does"], "answer": 1}
FILE, LIST = talk(*turns("the", "file")), talk(*turns("a\n\nthe", "file"))
CASES = {
    "classification": ({"sentence": "a", "label": 1, "extra": 3}, {"text": "a", "label": "1"}),
    "pair-classification": (
        {"premise": "a", "hypothesis": "b", "label": 1, "label_text": "no"}, {"text": "a", "pair": "b", "label": "no"}
    ),
    "text": ({"text": "the file", "extra": None}, {"text": "the file"}),
    "completion": ({"prompt": "the", "completion": " file", "id": 7}, {"prompt": "the", "completion": " file"}),
    "prompt-messages": (
        {"prompt": BARE["messages"][:2], "completion": BARE["messages"][2:3]},
        talk(*turns("what does it", "it reads", system="be short")),
    ),
    "messages": (BARE | {"text": "rendered"}, TALK),
    "chat": (
        {"system": "SYSTEM: be short\n", "chat": "USER: what does it\n\n\nASSISTANT: it reads <|endoftext|>\n\n\n"},
        talk(*turns("what does it", "it reads", system="be short")),
    ),
    "segments": (
        {"segments": [{"label": False, "text": "the"}, {"label": True, "text": " file"}]},
        {"segments": [{"text": "the", "learned": False}, {"text": " file", "learned": True}]},
    ),
    "alpaca": (
        {
            "instruction": "the",
            "input": "list",
            "output": "no",
            "system": "be short",
            "history": [["what does it", "it reads"]],
            "text": "rendered",
        },
        talk(*turns("what does it", "it reads", "the\nlist", "no", system="be short")),
    ),
    "question": ({"context": "a", "question": "the", "answers": {"text": ["file", "list"], "answer_start": [0, 3]}}, LIST),
    "multiple-choice": (ASKED | {"id": 3}, ASKED),
}  # fmt: skip


def test_every_format_has_a_case():
    assert set(CASES) == set(FORMATS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", CASES)
def test_a_format_is_told_by_its_columns(tmp_path, name, suffix):
    row, canonical = CASES[name]
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_list([row, row]).to_parquet(path)
    else:
        path.write_text(json.dumps([row, row]) if suffix == ".json" else json.dumps(row) + "\n" + json.dumps(row) + "\n")
    texts = read_texts(path, evaluation=name == "multiple-choice")
    assert texts.format == name
    assert texts.task == ("classification" if "classification" in name else "causal")
    assert texts.rows.to_list() == [canonical | {"row": 1}, canonical | {"row": 2}]


@pytest.mark.parametrize("name", FORMATS)
def test_a_canonical_row_has_the_columns_that_the_table_says(name):
    row, canonical = CASES[name]
    layout = layout_of(list(row), row, evaluation=True)
    assert layout.format == name
    assert layout.canonical(row) == canonical
    assert canonical.keys() == FORMATS[name].becomes.keys()


def test_the_first_format_that_fits_wins():
    def name(*columns, **how):
        return layout_of(columns, **how).format

    assert name("text", "messages") == "messages"
    assert name("text", "label", "messages") == "classification"
    assert name("prompt", "completion", "choices", "answer") == "completion"  # questions are not trained on
    assert name("prompt", "completion", "choices", "answer", evaluation=True) == "multiple-choice"
    with pytest.raises(InputError, match="multiple-choice questions can be evaluated, not trained on"):
        layout_of(["question", "choices", "answer"])


def test_formats_are_listed_in_one_line():
    said = formats_help()
    assert said.startswith("first and second and label; text and label; messages; chat; segments; prompt and completion;")
    assert "choices" not in said  # which are for evaluation only


@pytest.mark.parametrize("columns", REFUSED)
def test_data_that_cannot_be_learned_from_is_refused_with_a_word_on_why(columns):
    with pytest.raises(InputError, match=f"columns {', '.join(columns)}: this is (preference data|a tree of messages)"):
        layout_of([*columns, "text"])


def test_the_preferred_answers_may_be_chosen_by_name(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "the", "chosen": "file", "rejected": "list"}])
    texts = read_texts(path, settings=DataSettings(columns="question=prompt,answer=chosen"))
    assert texts.rows.to_list() == [FILE | {"row": 1}]
    texts = read_texts(path, settings=DataSettings(columns="prompt=prompt,completion=chosen"))
    assert texts.rows.to_list() == [{"prompt": "the", "completion": "file", "row": 1}]


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        (["problem", "solution", "answer"], {}, "columns answer and solution may both be the answer; say which by"),
        (["question", "problem", "answer"], {}, "columns question and problem may both be the question; say which by `columns`"),
        (["a", "b"], {}, "columns a, b fit no known format; say by `columns` which is which"),
        (["a", "b"], {"prompt": "c"}, "`columns` names 'c', but the columns are a, b"),
        (["a", "b"], {"prompt": "a"}, "columns a, b fit no known format"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_asked_for_by_name(columns, named, message):
    with pytest.raises(InputError, match=message):
        layout_of(columns, named=named)


def test_ambiguity_ends_where_the_user_names_a_column():
    layout = layout_of(["problem", "solution", "answer"], named={"answer": "solution"})
    assert layout.columns == {"answer": "solution", "question": "problem"}
    assert layout.ignored == ("answer",)


def test_a_speaker_of_another_name_has_the_role_that_the_user_says(tmp_path):
    rows = [{"conversations": [{"from": "Alice", "value": "the"}, {"from": "Bob", "value": "file"}]}]
    path = write_rows(tmp_path / "m.jsonl", rows)
    with pytest.raises(InputError, match=r"from is 'Alice'; use one of .* or say by `role_map`"):
        read_texts(path)
    texts = read_texts(path, settings=DataSettings(role_map="Alice=user,Bob=assistant"))
    assert texts.rows.to_list() == [FILE | {"row": 1}]


def test_columns_that_a_file_has_not_are_refused_unless_they_were_named_for_others(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "completion": "b"}])
    for evaluation in (False, True):
        with pytest.raises(InputError, match="`columns` names 'q', but the columns are prompt, completion"):
            read_texts(path, settings=DataSettings(columns="prompt=q"), evaluation=evaluation)
    assert read_texts(path, settings=DataSettings(columns="prompt=q"), lenient=True).format == "completion"


def test_columns_that_are_ignored_are_named_once(tmp_path, caplog):
    caplog.set_level("INFO", logger="loraplan")
    path = write_rows(tmp_path / "m.jsonl", [{"text": "a", "url": "b", "language": "c"}] * 2)
    for _ in range(2):
        read_texts(path)
    assert [record.message for record in caplog.records] == [f"{path}: read as text; ignored columns: url, language"]
