"""Tables of methods: a setting is a name in a table, which may grow while the program runs."""

from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from spectra.core.documents import Value
from spectra.core.errors import InputError
from spectra.core.methods import Choice, Chosen, Method, NoSettings, OneOf


class Loud(Value):
    volume: Annotated[int, Field(ge=1)] = 5


TABLE = {"plain": Method(lambda: "plain"), "loud": Method(lambda: "loud", Loud)}
NAMES = {"small": 1, "large": 2}


class Example(Value):
    method: Annotated[Choice, OneOf(TABLE, "method")] = "plain"
    size: Annotated[str, OneOf(NAMES, "size")] = "small"


def test_a_name_stands_for_the_method_at_its_defaults():
    assert Example().method == Chosen(name="plain", settings=NoSettings())
    assert Example(method="loud").method.settings == Loud(volume=5)
    assert str(Example(method="loud").method) == "loud"
    assert Example(size="large").size == "large"


def test_a_methods_own_settings_are_checked_as_its_own_class():
    made = Example(method={"name": "loud", "settings": {"volume": 7}})
    assert made.method.settings == Loud(volume=7)
    assert Example(method={"name": "loud"}).method == Example(method="loud").method
    assert Example(method=made.method) == made


def test_what_is_written_is_read_again():
    made = Example(method={"name": "loud", "settings": {"volume": 7}}, size="large")
    assert made.model_dump() == {"method": {"name": "loud", "settings": {"volume": 7}}, "size": "large"}
    assert Example.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "quiet"}, "example: method 'quiet': not one of plain, loud"),
        ({"method": 3}, "example: method 3: not one of plain, loud"),
        ({"method": {"name": "quiet", "settings": {}}}, "example: method 'quiet': not one of plain, loud"),
        ({"method": {"name": "loud", "volume": 3}}, "example: method .*: not one of plain, loud"),
        ({"method": {"name": "loud", "settings": {"volume": 0}}}, "example: method loud: volume: .*, got 0"),
        (
            {"method": {"name": "plain", "settings": {"volume": 1}}},
            "example: method plain: volume: Extra inputs are not permitted",
        ),
        ({"size": "medium"}, "example: size 'medium': not one of small, large"),
    ],
)
def test_other_names_and_foreign_settings_are_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        Example.checked(given, "example")
    assert "\n" not in str(caught.value)


def test_a_method_added_later_can_be_chosen_everywhere(monkeypatch):
    with pytest.raises(ValidationError):
        Example(method="new")
    monkeypatch.setitem(TABLE, "new", Method(lambda: "new"))
    assert Example(method="new").method.name == "new"
    assert TABLE[Example(method="new").method.name].run() == "new"


def test_the_schema_shows_a_tables_names_as_examples_not_as_the_only_ones():
    schema = Example.model_json_schema()["properties"]
    assert schema["size"]["examples"] == ["small", "large"]
    assert "enum" not in schema["size"]
    assert schema["method"]["examples"] == [{"name": n, "settings": m.settings().model_dump()} for n, m in TABLE.items()]
