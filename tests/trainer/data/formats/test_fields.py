"""A row's fields: what is asked of them, and how faults name them."""

import pytest

from spectra import InputError
from trainer.data.formats.fields import Fields, needed, parsed, shown


def test_fields_know_their_columns():
    row = Fields({"answer": "a", "choices": ["b"]}, {"answer": "response", "choices": ("one", "two")})
    assert (row.column("answer"), row.column("choices"), row.column("other")) == ("response", "one, two", "other")
    assert row.held("choices") == ("one", "two")
    assert row.having(answer="c").column("answer") == "response"
    assert row.having(answer="c")["answer"] == "c"


@pytest.mark.parametrize("value", [None, "", " ", 3, ["a"]])
def test_what_is_needed_is_text(value):
    with pytest.raises(InputError, match=r"x is .*; it must be text that is not blank"):
        needed(value, "x")


@pytest.mark.parametrize(("value", "read"), [("[1]", [1]), ('{"a": 1}', {"a": 1}), ("a", "a"), (None, None), ([1], [1])])
def test_json_is_read_where_a_text_begins_so(value, read):
    assert parsed(value, "x") == read


def test_broken_json_is_refused():
    with pytest.raises(InputError, match=r"x is .*; it begins as JSON and is none"):
        parsed("[1", "x")


def test_long_values_are_shown_short():
    assert len(shown("a" * 1000)) == 80
