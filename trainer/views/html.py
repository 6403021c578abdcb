"""One self-contained HTML page of anything loraplan writes: figures, tables and sentences, nothing loaded from elsewhere."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from spectra.views.figures import drawing, style
from trainer.run_folder import PLAN
from trainer.study.report import STUDY
from trainer.views.documents import DOCUMENTS, find_document


class _Image(str):
    """A figure as SVG, in letters."""

    __slots__ = ()


Part = _Image | Table | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The part of the page about one document."""

    title: str
    parts: tuple[Part, ...]


def page(sources: Sequence[str | Path]) -> str:
    """Write up studies, runs, plans and reports.

    Args:
        sources: folders of runs or studies, plans, spectra and sensitivity reports.

    Returns:
        HTML.

    Raises:
        InputError: a path that holds none of these.
    """
    sections = [section for source in sources for section in _sections(Path(source))]
    # Names come from other people's files and are text, never markup.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE).render(
        title=sections[0].title, sections=[(section.title, [_shown(part) for part in section.parts]) for section in sections]
    )


def _sections(source: Path) -> Iterator[Section]:
    """A document's section, followed by those of the documents that belong to it."""
    kind, path = find_document(source)
    view = DOCUMENTS[kind]
    with drawing(path):
        figures = tuple(_Image(_embedded(figure)) for _, figure in view.figures(path))
        parts: tuple[Part, ...] = ("\n".join(view.text(path)), *figures, *view.tables(path))
    yield Section(title=_title(kind, path), parts=parts)
    for part in view.parts(path):
        yield from _sections(part)


def _title(kind: str, path: Path) -> str:
    # Studies and the plans of runs all have the same file name; their folder tells them apart.
    name = path.absolute().parent.name if path.name in (STUDY, PLAN) else path.name.removesuffix(".json")
    return f"{kind.capitalize()} {name}"


def _shown(part: Part) -> dict[str, Any]:
    """A part in the template's terms."""
    if isinstance(part, _Image):
        return {"image": part}
    if isinstance(part, Table):
        return {"table": part, "heads": [_plain(column.header) for column in part.columns], "rows": _rows(part)}
    return {"lines": [_plain(line) for line in part.splitlines()]}


def _embedded(figure: Figure) -> str:
    content = BytesIO()
    with style():
        # Without the date, so that the same documents give the same page.
        figure.savefig(content, format="svg", bbox_inches="tight", metadata={"Date": None})
    return b64encode(content.getvalue()).decode()


def _rows(table: Table) -> list[list[tuple[str, str]]]:
    """(text, alignment) of every cell."""
    columns = [[(_plain(cell), column.justify) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _plain(cell: Any) -> str:
    # Tables are made for the terminal; the page takes their words and leaves rich's styles behind.
    return cell.plain if isinstance(cell, Text) else str(cell)


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 3rem 0 .5rem; border-bottom: 1px solid #ccc; }
h1:first-of-type { margin-top: 0; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; white-space: nowrap; vertical-align: top; }
th { border-bottom: 1px solid #999; }
.right { text-align: right; }
nav a { margin-right: 1rem; }
footer { color: #666; font-size: .875rem; margin-top: 3rem; }
</style>
</head>
<body>
{% if sections | length > 1 %}
<nav>{% for title, _ in sections %}<a href="#s{{ loop.index }}">{{ title }}</a> {% endfor %}</nav>
{% endif %}
{% for title, parts in sections %}
<h1 id="s{{ loop.index }}">{{ title }}</h1>
{% for part in parts %}
{% if part.image %}
<figure><img alt="figure {{ loop.index }} of {{ title }}" src="data:image/svg+xml;base64,{{ part.image }}"></figure>
{% elif part.heads %}
<div class="wide"><table>
{% if part.table.title %}<caption>{{ part.table.title }}</caption>{% endif %}
<tr>{% for head in part.heads %}<th class="{{ part.table.columns[loop.index0].justify }}">{{ head }}</th>{% endfor %}</tr>
{% for row in part.rows %}
<tr>{% for text, side in row %}<td class="{{ side }}">{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% if part.table.caption %}<small>{{ part.table.caption }}</small>{% endif %}
</div>
{% else %}
{% for line in part.lines %}<p>{{ line }}</p>
{% endfor %}
{% endif %}
{% endfor %}
{% endfor %}
<footer>Made by loraplan. Every figure and number is in this file.</footer>
</body>
</html>
"""
