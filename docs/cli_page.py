"""Writes docs/reference/cli.md from the commands themselves.

python docs/cli_page.py
"""

from collections.abc import Iterator
from pathlib import Path

import click

import cli

HERE = Path(__file__).parent
INTRODUCTION = """# The command line

Every command and option, in the order of the pipeline.
This page is made from the commands by `python docs/cli_page.py`, which `make pages` runs.

Exit codes: 0 done, 1 unusable input (one line says what, where and what to do), 2 wrong usage, 130 interrupted.
"""


def page() -> str:
    """The Markdown page."""
    parts = [INTRODUCTION]
    for heading, commands in cli.SECTIONS.items():
        parts.append(f"## {heading}\n")
        for command in commands:
            parts += _section(command)
    return "\n".join(parts)


def _section(command: click.Command) -> Iterator[str]:
    ctx = click.Context(command, info_name=f"plan {command.name}")
    usage = " ".join(command.collect_usage_pieces(ctx))
    yield f"### plan {command.name}\n"
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        example = text.removeprefix("Example: ")
        yield f"{text}\n" if example == text else f"```sh\n{example}\n```\n"
    yield f"Usage: `plan {command.name} {usage}`\n"
    options = [option for option in command.get_params(ctx) if isinstance(option, click.Option) and "--help" not in option.opts]
    if options:
        yield "| option | what |\n|---|---|"
        yield from (_row(option) for option in options)
        yield ""


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    choices = getattr(option.type, "choices", None) or getattr(option.type, "table", None)
    said = (option.help or "").replace("|", "\\|")
    if choices:
        said += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    if option.required:
        said += " Required."
    elif option.show_default:
        said += f" Default `{option.default}`."
    return f"| {names} | {said} |"


if __name__ == "__main__":
    (HERE / "reference" / "cli.md").write_text(page())
