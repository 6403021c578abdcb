"""Chat templates that can be chosen by name."""

import pytest

from spectra import InputError
from tests.trainer.data.examples import TALK, bytewise
from trainer.data.chat import segments
from trainer.data.chat.named import names, template_text
from trainer.settings import DataSettings


def test_the_settings_name_all_of_them():
    said = DataSettings.model_fields["chat_template"].description
    assert all(name in said for name in names())


@pytest.mark.parametrize("name", names())
def test_every_named_template_ends_what_it_asks_for(name):
    tokenizer = bytewise(template_text(name))
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"]})
    (example,) = segments(TALK, tokenizer)
    learned = [part.text.strip() for part in example if part.trained]
    assert [text.startswith(word) for text, word in zip(learned, ("it reads", "no"), strict=True)] == [True, True]
    assert all(text.endswith(("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>")) for text in learned)


def test_a_file_may_be_chosen(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    assert template_text(str(tmp_path / "mine.jinja")) == "{{ messages }}"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is neither a file nor one of alpaca, chatml"), (b"\xff", "not a readable text"), (b"hello", "never says `messages`"),
     (b"messages" * 2**18, "bytes are too many for a chat template")],
)  # fmt: skip
def test_what_is_no_template_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        template_text(str(path))
