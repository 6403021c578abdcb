"""Writes docs/reference/plan-format.md and docs/reference/plan.schema.json from the Plan class itself.

python docs/plan_format.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner import Plan

FOLDER = Path(__file__).parent / "reference"
INTRODUCTION = """# The plan file

You find here every field of the file that `plan allocate` writes and `plan train` builds.

Any program can write one: it is JSON, strict (an unknown key is an error) and versioned.
`schema_version` rises with a change that old readers would misread.
[plan.schema.json](plan.schema.json) is its JSON Schema; this page is made from the same classes by `python docs/plan_format.py`.

What the schema cannot say is checked on reading:

- Site names are unique.
- A rank is at most the smaller side of its matrix.
- `top_k` is at most the number of experts (0 where there are none).
- `budget.parameters` is what the sites cost: `sum(ranks) * (d_in + d_out)` each, plus `experts * d_in` for the router \
where there are two or more experts.
- `budget.spent` is at most `budget.limit`.

A number that could not be measured is `null`.
Keys are sorted and every site is on a line of its own, so two plans diff cleanly, and the same inputs give the same bytes.
`plan check PLAN MODEL` says whether a plan fits a model, listing every mismatch.
"""


def schema() -> dict[str, Any]:
    """The JSON Schema of a plan file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Plan.model_json_schema(mode="serialization")}


def page() -> str:
    """The Markdown page."""
    whole = schema()
    parts = [INTRODUCTION, *_section("plan.json", whole)]
    for name, definition in whole["$defs"].items():
        parts += _section(name, definition)
    return "\n".join(parts)


def _section(title: str, definition: Mapping[str, Any]) -> Iterator[str]:
    summary, _, rest = definition.get("description", "").partition("\n\n")
    yield f"## {title}\n\n{' '.join(summary.split())}" + (f"\n\n{' '.join(rest.split())}" if rest else "") + "\n"
    yield "| field | type | meaning |\n|---|---|---|"
    for name, field in definition["properties"].items():
        yield f"| `{name}` | {_type(field)} | {' '.join(field.get('description', '').split())} |"
    yield ""


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "prefixItems" in field:
        return "[" + ", ".join(_type(item) for item in field["prefixItems"]) + "]"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    return str(field.get("type", "any"))


def main() -> None:
    """Write both files."""
    (FOLDER / "plan-format.md").write_text(page(), encoding="utf-8")
    (FOLDER / "plan.schema.json").write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
