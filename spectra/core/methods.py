"""Tables of methods, and settings that name one of them.

loraplan grows in tables: name -> method. A setting never repeats a table's names. It is marked with the table, which is asked
when the setting is checked, so that a method added at run time can be chosen everywhere:

    estimator: Annotated[str, OneOf(ESTIMATORS, "estimator")] = "clauset"
    router: Annotated[Choice, OneOf(ROUTERS, "router")] = "topk"

The second form is for methods with settings of their own, which stand in a class beside the method. It is given as a name or as
{"name": "sira", "settings": {"capacity": 2.0}}, and read as a `Chosen`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializeAsAny, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from spectra.core.documents import Value

F = TypeVar("F", bound=Callable[..., Any])


class NoSettings(Value):
    """For methods without settings of their own."""


@dataclass(frozen=True, slots=True)
class Method(Generic[F]):
    """A row of a table: a function, and the class of its own settings."""

    run: F
    settings: type[Value] = NoSettings


class Chosen(Value):
    """A method by its name, with its own settings. A bare name stands for the method at its defaults."""

    name: str
    settings: Annotated[SerializeAsAny[Value], WithJsonSchema({"type": "object"})]
    """Settings of the method's own class, complete with its defaults."""

    def __str__(self) -> str:
        return self.name


if TYPE_CHECKING:
    Choice = Any  # what may be given is wider than what is read, which Python's types cannot say
else:
    Choice = Chosen


@dataclass(frozen=True, slots=True)
class OneOf:
    """Marks a setting as a name in a table; `what` is the word for such a name in messages."""

    table: Mapping[str, Any]
    what: str

    def checked(self, value: object) -> object:
        """A name that is in the table, or a method with settings that are its own.

        Raises:
            ValueError: the name is not in the table.
        """
        name, given = value, {}
        if isinstance(value, Chosen):
            name, given = value.name, value.settings.model_dump()
        elif isinstance(value, Mapping) and value.keys() <= {"name", "settings"}:
            name, given = value.get("name"), value.get("settings") or {}
        if not isinstance(name, str) or name not in self.table:
            raise ValueError(f"{self.what} {name!r}: not one of {', '.join(self.table)}")
        method = self.table[name]
        # Methods without settings of their own, such as estimators, are set by their name alone.
        if not isinstance(method, Method):
            return name
        return Chosen(name=name, settings=method.settings.checked(given, f"{self.what} {name}"))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # Examples and no enumeration, because a table may grow while the program runs.
        rows = self.table.items()
        examples = [{"name": n, "settings": m.settings().model_dump()} if isinstance(m, Method) else n for n, m in rows]
        return handler(schema) | {"examples": examples}
