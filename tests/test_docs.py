"""What is generated in docs/ is up to date."""

import importlib.util
import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_plan_format_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("plan_format", DOCS / "plan_format.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "plan-format.md").read_text() == module.page(), "run: python docs/plan_format.py"
    assert json.loads((DOCS / "plan.schema.json").read_text()) == json.loads(json.dumps(module.schema()))
