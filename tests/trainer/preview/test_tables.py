"""A data report on a terminal and as a page."""

from io import StringIO

from rich.console import Console

from trainer.preview.report import Cut, DataReport, Lengths, Same, Shown, Stretch
from trainer.preview.tables import page, summary
from trainer.settings import DataSettings

REPORT = DataReport(
    file="train.jsonl", model="tiny", format="messages", task="causal", rows=1200, ignored=("id",),
    settings=DataSettings(max_length=512, template_option="enable_thinking=false"), examples=2400,
    learned_tokens=300, other_tokens=700,
    lengths=(Lengths(least=3, most=3, examples=1), Lengths(least=4, most=900, examples=2399)),
    cuts=(Cut(max_length=512, cut=40, left_out=2),), labels={}, duplicates=5,
    overlap=(Same(file="test.jsonl", rows=1, prompts=2, of=30),),
    shown=(
        Shown(row=7, stretches=(Stretch(text="<b>ask", tokens=2, learned=False), Stretch(text="say", tokens=1, learned=True))),
    ),
)  # fmt: skip


def printed(report):
    console = Console(width=120, record=True, file=StringIO())
    for part in summary(report):
        console.print(part, markup=False)
    return console.export_text()


def test_a_terminal_is_told_everything():
    text = printed(REPORT)
    for said in (
        "train.jsonl: 1,200 rows, read as messages, for causal; ignored columns: id",
        "1,000 tokens of tiny in 2,400 examples, of which 300 (30%) are learned",
        "duplicates: 5 of 1,200 rows",
        "overlap: of 30 rows of test.jsonl, 1 are in this file, and the prompts of 2",
        "the chat template is given enable_thinking=false",
        "4 to 900", "512 (auto)", "<b>ask⟦say⟧",
    ):  # fmt: skip
        assert said in text


def test_a_long_example_is_shown_by_its_ends():
    long = REPORT.model_copy(update={"shown": (Shown(row=1, stretches=(Stretch(text="x" * 9000, tokens=9000, learned=True),)),)})
    assert "… 7,502 letters …" in printed(long)


def test_what_is_in_a_file_is_text_and_no_markup():
    html = page(REPORT)
    assert "&lt;b&gt;ask<mark>say</mark>" in html
    assert "<b>" not in html


def test_labels_are_listed():
    labelled = REPORT.model_copy(update={"task": "classification", "labels": {"a": 1, "b": 1199}, "lengths": (), "cuts": ()})
    assert "labels: a 1, b 1,199" in printed(labelled)
