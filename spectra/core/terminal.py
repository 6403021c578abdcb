"""Tools that the commands share: progress bars, printing, options made from settings, and errors in the command line's own words.

click and rich only, so that `plan --help` starts at once.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from spectra.core.documents import Value
from spectra.core.errors import InputError, visible
from spectra.core.methods import Method, OneOf
from spectra.core.progress import Progress

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # which takes no parameter before click 8.4
PIPED_WIDTH = 132  # characters of a line where nobody says how wide the terminal is
_SETTING = re.compile(r"`(\w+)`")


class PathType(click.Path):
    """A path, as click has it, of a name that a file can have: a file of options may say anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no name."""
        try:
            name = os.fsencode(value)
        except UnicodeEncodeError:
            name = b"\0"
        if b"\0" in name:
            self.fail(f"{value!r} is not the name of a file.", param, ctx)
        return super().convert(value, param, ctx)


PATH = PathType(path_type=Path)


def prepare_streams() -> None:
    """Let whatever is printed come through: a pipe may know fewer letters than a terminal, and a stream may be closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def show(*parts: RenderableType) -> None:
    """Print text and tables on standard output, as they are: names come from files and are never markup."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(_plain(part))


def _plain(part: RenderableType) -> RenderableType:
    if isinstance(part, Table):
        for column in part.columns:
            column._cells = [_plain(cell) for cell in column._cells]  # there is no public way to them
    return visible(part) if isinstance(part, str) else part


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """A progress bar on standard error that appears with the first report."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    task = bars.add_task(description, total=None, note="")

    def report(done: int, total: int | None = None, note: str = "") -> None:
        bars.start()  # not before: input that is refused at once should not leave an empty bar
        bars.update(task, completed=done, total=total, note=visible(note))

    try:
        yield report
    finally:
        if bars.live.is_started:
            bars.stop()


class EchoHandler(logging.Handler):
    """Writes log records to standard error, whatever that is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        click.echo(visible(self.format(record)), err=True)


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """The option `--json`, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of tables.")(command)


class Name(ParamType):
    """A name in a table, which is looked up when the option is: a method added at run time can be chosen at once."""

    name = "name"

    def __init__(self, table: Mapping[str, Any]) -> None:
        """Offer the names of a table."""
        self.table = table

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """All names, for the help."""
        return f"[{'|'.join(self.table)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not in the table, as click refuses other wrong values."""
        if value not in self.table:
            self.fail(f"{value!r} is not one of {', '.join(self.table)}.", param, ctx)
        return value


class NumberOrWord(ParamType):
    """A number, or one of a few words that stand in its place."""

    name = "number"

    def __init__(self, words: Sequence[str], *, whole: bool = False) -> None:
        """Offer the words, beside whole numbers or any."""
        self.words, self.kind = tuple(words), "INTEGER" if whole else "FLOAT"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What may be given, for the help."""
        return f"[{self.kind}|{'|'.join(self.words)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is neither."""
        if value in self.words:
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number nor {' or '.join(self.words)}.", param, ctx)


class SettingsCommand(click.Command):
    """A command with one option per setting; the callback gets them as one checked value, `settings`.

    Name, default and help of an option come from the settings' own fields. Where a setting names a method of a table, the own
    settings of the methods are options as well, and one that belongs to another method than the chosen one is refused.
    """

    def __init__(self, *arguments: Any, settings: type[Value], without: tuple[str, ...] = (), **keywords: Any) -> None:
        """Make a command with the options of some settings, but for those named in `without`."""
        super().__init__(*arguments, **keywords)
        self.settings, self.without = settings, without

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and an option per setting, made anew each time because tables may have grown."""
        own = super().get_params(ctx)
        taken = {parameter.name for parameter in own}
        options = [_option(name, field) for name, field in self._fields().items()]
        for name, of_methods in self._method_settings().items():
            if name not in taken | self._fields().keys():
                options.append(_method_option(name, of_methods))
        return [*own[:-1], *options, own[-1]]  # the help option stays last

    def _fields(self) -> dict[str, FieldInfo]:
        return {name: field for name, field in self.settings.model_fields.items() if name not in self.without}

    def _tables(self) -> dict[str, Mapping[str, Method[Any]]]:
        """Setting -> its table, for the settings whose methods have settings of their own."""
        found = {}
        for name, field in self._fields().items():
            table = _table(field)
            if table is not None and all(isinstance(method, Method) for method in table.values()):
                found[name] = table
        return found

    def _method_settings(self) -> dict[str, dict[str, FieldInfo]]:
        """Name of a method's own setting -> method -> its field."""
        found: dict[str, dict[str, FieldInfo]] = {}
        for table in self._tables().values():
            for method, row in table.items():
                for name, field in row.settings.model_fields.items():
                    found.setdefault(name, {})[method] = field
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Gather the settings and call the command."""
        ctx.params["settings"] = self.gathered(ctx)
        return super().invoke(ctx)

    def gathered(self, ctx: click.Context) -> Value:
        """Take the settings out of a context's parameters, checked.

        Raises:
            InputError: a value that no setting takes, or a setting of another method than the chosen one.
        """
        values = {name: ctx.params.pop(name) for name in self._fields()}
        # Only what was given, so that the settings know what their user chose (`model_fields_set`).
        source = click.core.ParameterSource.DEFAULT
        values = {
            name: value for name, value in values.items() if name in self._tables() or ctx.get_parameter_source(name) != source
        }
        for setting, table in self._tables().items():
            chosen = values[setting]
            own = {name for row in table.values() for name in row.settings.model_fields}
            # None: not given, so that the method's own default holds.
            given = {name: value for name in own if (value := ctx.params.pop(name, None)) is not None}
            if odd := sorted(given.keys() - table[chosen].settings.model_fields.keys()):
                owners = [method for method, row in table.items() if odd[0] in row.settings.model_fields]
                raise InputError(f"`{odd[0]}` is a setting of {setting} {' and '.join(owners)}, not of {setting} {chosen}")
            values[setting] = {"name": chosen, "settings": given}
        return self.settings.checked(values, "settings")


def _option(name: str, field: FieldInfo) -> click.Option:
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        return click.Option([flag], is_flag=True, help=_help(field.description))
    table = _table(field)
    kind = _type(field.annotation) if table is None else Name(table)
    shown = field.default is not None
    return click.Option([flag], default=field.default, show_default=shown, type=kind, help=_help(field.description))


def _method_option(name: str, of_methods: Mapping[str, FieldInfo]) -> click.Option:
    """An option for a setting of some methods; absent unless given, because its default is the method's."""
    flag = "--" + name.replace("_", "-")
    field = next(iter(of_methods.values()))
    said = f"{', '.join(of_methods)}: {_help(field.description)}"
    if field.annotation is bool:
        return click.Option([flag], is_flag=True, default=None, help=said)
    table = _table(field)
    kind = _type(field.annotation) if table is None else Name(table)
    return click.Option([flag], default=None, type=kind, help=f"{said}  [default: {field.default}]")


def _help(text: str | None) -> str:
    """A setting's docstring without its backticks, which a terminal would show."""
    return _SETTING.sub(lambda found: found[1], text or "")


def _table(field: FieldInfo) -> Mapping[str, Any] | None:
    return next((mark.table for mark in field.metadata if isinstance(mark, OneOf)), None)


def _type(annotation: Any) -> Any:
    """The type that click should parse: for an optional value that of the value, for a literal its choices."""
    if get_origin(annotation) in (Union, UnionType):
        words = [word for part in get_args(annotation) if get_origin(part) is Literal for word in get_args(part)]
        if words:
            return NumberOrWord(words, whole=any(_type(part) is int for part in get_args(annotation)))
        return _type(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    return click.Choice(get_args(annotation)) if get_origin(annotation) is Literal else annotation


def as_options(message: str, ctx: click.Context) -> str:
    """A library's message in the command line's words: settings in backticks become options of the command.

    A setting that the command does not offer keeps its name, backticks and all.
    """
    command = ctx.command
    # Errors arrive in the group's context, but the options are those of the command that raised them.
    if isinstance(command, click.Group) and ctx.invoked_subcommand:
        command = command.get_command(ctx, ctx.invoked_subcommand) or command
    options = {
        str(parameter.name): parameter.opts[-1] for parameter in command.get_params(ctx) if parameter.opts[-1].startswith("--")
    }
    return _SETTING.sub(lambda found: options.get(found[1], found[0]), message)


def from_yaml(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take options from a YAML file, as a callback; what stands on the command line wins.

    Every value becomes the text that would stand on the command line, so that one reading and one refusal serve both.
    """
    if path is None:
        return
    from spectra.core.yaml_texts import read_yaml

    found = read_yaml(path)
    parameters = {parameter.opts[-1].lstrip("-"): parameter for parameter in ctx.command.get_params(ctx)}
    values = {str(name).replace("_", "-"): value for name, value in found.items()}
    if odd := sorted(values.keys() - parameters.keys()):
        raise InputError(f"{path}: unknown option {odd[0]!r}; plan {ctx.info_name} --help lists them")
    ctx.default_map = {str(parameters[name].name): _given(path, name, value, parameters[name]) for name, value in values.items()}


def _given(path: Path, name: str, value: object, parameter: click.Parameter) -> object:
    """A value of a file as click takes it: a text, several for an option that may be repeated.

    Raises:
        InputError: a list or a mapping where one value stands.
    """
    if parameter.multiple:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return value
        raise InputError(f"{path}: {name}: expected a value or a list of values, found {_shown(value)}")
    if not isinstance(value, str):
        raise InputError(f"{path}: {name}: expected one value, found {_shown(value)}")
    if value in ("", "null", "~"):
        raise InputError(f"{path}: {name}: has no value; leave the line out for the default")
    return value


def _shown(value: object) -> str:
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else repr(value)


def numbers(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> list[float] | None:
    """Read a list of numbers such as `2,1`, as a callback."""
    try:
        return None if text is None else [float(part) for part in str(text).split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 2,1") from None
