import json

import datasets
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from spectra import InputError
from trainer.data.chat import Segment, segments
from trainer.data.dataset import read_texts
from trainer.data.formats import FORMATS
from trainer.data.tokenize import tokenise

WORDS = ["be", "short", "the", "a", "file", "reads", "what", "does", "it", "list", "no"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like reasoning models' templates: what the last turn has and earlier ones lose.
REWRITES = CHATML.replace(
    "{{ message['content'] }}", "{{ '<think>' if loop.last and message['role'] == 'assistant' }}{{ message['content'] }}"
)
REFUSES = "{{ raise_exception('no system turns here\\nreally') if messages[0]['role'] == 'system' }}" + CHATML


def words(template=None):
    """A word-level tokenizer that begins a text with <s>."""
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: number for number, word in enumerate([*special, "system", "user", "assistant", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names, extra_special_tokens=special[3:])
    made.chat_template = template
    return made


def bytewise(template=None):
    """A byte-level tokenizer that loses no character, and melts " w" and two line breaks into one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "Ġw", "ĊĊ", "</s>", "<|im_start|>", "<|im_end|>"])}
    inner = Tokenizer(models.BPE(vocabulary, [("Ġ", "w"), ("Ċ", "Ċ")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>", **special)
    made.chat_template = template
    return made


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*contents, system=None):
    roles = ("user", "assistant")
    found = [{"role": roles[position % 2], "content": content} for position, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + found


def trained(tokenizer, row):
    """The text whose tokens the loss counts, one string per unbroken stretch."""
    stretches, inside = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label != -100:
            stretches = [*stretches[:-1], [*stretches[-1], token]] if inside else [*stretches, [token]]
        inside = label != -100
    return [tokenizer.decode(stretch) for stretch in stretches]


TALK = {"messages": turns("what does it", "it reads", "the list", "no", system="be short")}
CASES = {
    "classification": ({"text": "a", "label": 1, "extra": 3}, {"text": "a", "label": "1"}),
    "text": ({"text": "the file", "extra": None}, {"text": "the file"}),
    "completion": ({"prompt": "the", "completion": " file", "id": 7}, {"prompt": "the", "completion": " file"}),
    "messages": (TALK | {"text": "rendered"}, TALK),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "be short"},
                {"from": "human", "value": "what does it"},
                {"from": "gpt", "value": "it reads"},
                {"from": "user", "value": "the list"},
                {"from": "assistant", "value": "no"},
            ]
        },
        TALK,
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
        {"messages": turns("what does it", "it reads", "the\nlist", "no", system="be short")},
    ),
}


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
    texts = read_texts(path)
    assert texts.format == name
    assert texts.kind == ("classification" if name == "classification" else "causal")
    assert texts.rows.to_list() == [canonical | {"row": 1}, canonical | {"row": 2}]


def test_csv_fields_are_text_as_they_are_written(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text("id,prompt,completion\n1,6 x 7 =,42\n2,who?,NA\n")
    assert [row["completion"] for row in read_texts(path).rows] == ["42", "NA"]
    path.write_text("instruction,input,output\nadd,1,2\nwait,,3\n")
    assert [row["messages"][0]["content"] for row in read_texts(path).rows] == ["add\n1", "wait"]


@pytest.mark.parametrize(("line", "fields"), [("the file, too,a", 3), ("the file", 1)])
def test_csv_lines_of_another_length_are_named(tmp_path, line, fields):
    path = tmp_path / "data.csv"
    path.write_text(f'text,label\n"two\nlines",a\n{line}\n')
    with pytest.raises(InputError, match=f"data.csv:4: {fields} fields under 2 columns; put fields that hold a comma in quotes"):
        read_texts(path)


@pytest.mark.parametrize("empty", [{}, {"input": ""}, {"input": None, "system": " ", "history": []}])
def test_what_is_optional_in_alpaca_may_be_missing(tmp_path, empty):
    texts = read_texts(write(tmp_path / "a.jsonl", [{"instruction": "the", "output": "file"} | empty]))
    assert texts.rows[0]["messages"] == turns("the", "file")


def bad(column, *found):
    return {column: list(found)}


USER, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}


@pytest.mark.parametrize(
    ("good", "row", "message"),
    [
        ({"text": "a"}, {"text": 3}, "row 2: text is 3; it must be text"),
        ({"text": "a", "label": "x"}, {"text": "b", "label": ""}, "row 2: label is missing"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, "row 2: completion is None; it must be text"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}, "row 2: completion is ' '; it must be text"),
        ({"prompt": "a", "completion": "b"}, {"prompt": ["a"], "completion": "b"}, r"row 2: prompt is \['a'\]; it must"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}, "row 2: output is ''; it must be text"),
        ({"instruction": "a", "output": "b"}, {"instruction": None, "output": "b"}, "row 2: instruction is None"),
        (
            {"instruction": "a", "output": "b", "input": "c"},
            {"instruction": "a", "output": "b", "input": 3},
            "row 2: input is 3; it must be text or left out",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["c", "d"]]},
            {"instruction": "a", "output": "b", "history": [["c"]]},
            r"row 2: history is \[\['c'\]\]; it must be a list of \[user, assistant\] pairs",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["c", "d"]]},
            {"instruction": "a", "output": "b", "history": [["c", ""]]},
            "row 2: history pair 1: assistant is ''",
        ),
        (bad("messages", USER, SAID), {"messages": None}, "row 2: messages is None; it must be a list of {role, content}"),
        (bad("messages", USER, SAID), {"messages": "hi"}, "row 2: messages is 'hi'; it must be a list"),
        (bad("messages", USER, SAID), bad("messages"), r"row 2: messages is \[\]; it must be a list"),
        (bad("messages", USER, SAID), bad("messages", "hi"), r"row 2: messages\[0\] is 'hi'; it must be an object"),
        (bad("messages", USER, SAID), bad("messages", USER), "row 2: messages has no assistant turn among 1"),
        (bad("messages", USER, SAID), bad("messages", SAID, USER), "row 2: messages begins with the assistant's turn"),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, {"role": "tool", "content": "b"}),
            r"row 2: messages\[1\]: role is 'tool'; use one of system, user, assistant",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, {"role": "assistant", "content": None}),
            r"row 2: messages\[1\]: content is None; it must be text",
        ),
        (
            bad("conversations", HUMAN, GPT),
            bad("conversations", HUMAN, {"from": "bing", "value": "b"}),
            r"row 2: conversations\[1\]: from is 'bing'; use one of system, human, user, gpt, assistant",
        ),
        (
            bad("conversations", HUMAN, GPT),
            bad("conversations", HUMAN, {"from": "gpt", "value": 3}),
            r"row 2: conversations\[1\]: value is 3; it must be text",
        ),
        (bad("conversations", HUMAN, GPT), bad("conversations", HUMAN), "row 2: conversations has no assistant turn"),
    ],
)
def test_bad_rows_are_named(tmp_path, good, row, message):
    path = write(tmp_path / "data.jsonl", [good, row])
    with pytest.raises(InputError, match=message) as caught:
        read_texts(path)
    assert str(caught.value).startswith(f"{path}: row 2: ")
    assert "\n" not in str(caught.value)


def test_columns_of_no_format_are_listed_with_the_known_ones(tmp_path):
    path = write(tmp_path / "data.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(
        InputError, match=r"columns question, answer fit no known format; rename .* completion \(prompt, completion\);"
    ):
        read_texts(path)


@pytest.mark.parametrize(
    ("prompt", "completion"), [("what is it?", " written\n\nhere é"), ("what is it? ", "written"), ("one\n", "\ntwo")]
)
def test_the_loss_counts_exactly_the_completion(tmp_path, prompt, completion):
    """Also where the tokenizer would melt the end of the prompt and the start of the completion into one token."""
    tokenizer = bytewise()
    texts = read_texts(write(tmp_path / "c.jsonl", [{"prompt": prompt, "completion": completion}]))
    row = tokenise(texts, tokenizer, 64).rows[0]
    assert trained(tokenizer, row) == [f"{completion}</s>"]
    asked = tokenizer(prompt)["input_ids"]
    assert row["input_ids"][: len(asked)] == asked
    assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_a_prompt_begins_as_the_tokenizer_begins_texts(tmp_path):
    tokenizer = words()
    texts = read_texts(write(tmp_path / "c.jsonl", [{"prompt": "the file", "completion": " reads it"}]))
    examples = tokenise(texts, tokenizer, 16)
    assert tokenizer.decode(examples.rows[0]["input_ids"]) == "<s> the file reads it </s>"
    assert examples.rows[0]["labels"][:3] == [-100] * 3
    everything = tokenise(texts, tokenizer, 16, loss_on="all").rows[0]
    assert everything["labels"] == everything["input_ids"] == examples.rows[0]["input_ids"]


def test_an_end_that_is_written_already_is_not_doubled(tmp_path):
    tokenizer = words()
    texts = read_texts(write(tmp_path / "c.jsonl", [{"prompt": "the", "completion": " file</s>"}]))
    assert trained(tokenizer, tokenise(texts, tokenizer, 16).rows[0]) == ["file </s>"]


def test_a_tokenizer_without_an_end_token_adds_none(tmp_path):
    tokenizer = words()
    tokenizer.eos_token = None
    texts = read_texts(write(tmp_path / "c.jsonl", [{"prompt": "the", "completion": " file"}]))
    assert trained(tokenizer, tokenise(texts, tokenizer, 16).rows[0]) == ["file"]


@pytest.mark.parametrize("make", [words, bytewise])
def test_the_loss_counts_exactly_the_assistants_turns(tmp_path, make):
    tokenizer = make(CHATML)
    texts = read_texts(write(tmp_path / "m.jsonl", [TALK]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    stretches = [stretch.replace(" <|im_end|>", "<|im_end|>").strip() for stretch in trained(tokenizer, row)]
    assert stretches == ["it reads<|im_end|>", "no<|im_end|>"]
    whole = tokenizer.apply_chat_template(TALK["messages"], tokenize=True, return_dict=False)
    assert row["input_ids"] == whole
    everything = tokenise(texts, tokenizer, 256, loss_on="all").rows[0]
    assert everything["labels"] == everything["input_ids"] == whole


def test_turns_after_the_last_answer_are_read_but_not_learned(tmp_path):
    tokenizer = bytewise(CHATML)
    texts = read_texts(write(tmp_path / "m.jsonl", [{"messages": turns("a", "b", "c")}]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    assert trained(tokenizer, row) == ["b<|im_end|>\n"]
    assert tokenizer.decode(row["input_ids"]).endswith("c<|im_end|>\n")


def test_without_a_template_a_conversation_gets_our_plain_text(tmp_path):
    tokenizer = bytewise()
    texts = read_texts(write(tmp_path / "m.jsonl", [TALK]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    assert tokenizer.decode(row["input_ids"]) == (
        "be short\n\n### Instruction:\nwhat does it\n\n### Response:\nit reads</s>\n\n"
        "### Instruction:\nthe list\n\n### Response:\nno</s>"
    )
    assert trained(tokenizer, row) == ["it reads</s>", "no</s>"]


def test_a_template_that_rewrites_earlier_turns_is_named(tmp_path):
    path = write(tmp_path / "m.jsonl", [{"messages": turns("a", "b")}, TALK])
    with pytest.raises(InputError, match=r"row 2: the tokenizer's chat template rewrites .* use loss_on='all'") as caught:
        tokenise(read_texts(path), words(REWRITES), 64)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(tokenise(read_texts(path), words(REWRITES), 64, loss_on="all").rows) == 2


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_a_template_that_refuses_a_row_is_named(tmp_path, loss_on):
    path = write(tmp_path / "m.jsonl", [{"messages": turns("a", "b")}, TALK])
    with pytest.raises(InputError, match=r"row 2: .* refuses the messages: no system turns here; change them") as caught:
        tokenise(read_texts(path), words(REFUSES), 64, loss_on=loss_on)
    assert "\n" not in str(caught.value)


def test_rows_keep_their_numbers_when_shuffled(tmp_path):
    path = write(tmp_path / "m.jsonl", [{"messages": turns("a", "b")}, TALK])
    texts = read_texts(path)
    drawn = type(texts)(path=texts.path, rows=texts.rows.select([1, 0]))
    with pytest.raises(InputError, match="row 2: the tokenizer's chat template rewrites"):
        tokenise(drawn, words(REWRITES), 64)


def test_segments_are_whole_and_alternate():
    found = segments(TALK, bytewise(CHATML), "completion")
    assert "".join(part.text for part in found) == bytewise(CHATML).apply_chat_template(TALK["messages"], tokenize=False)
    assert [part.trained for part in found] == [False, True, False, True]
    assert segments({"prompt": "a", "completion": "b"}, bytewise(), "all") == [Segment("ab</s>", True)]
