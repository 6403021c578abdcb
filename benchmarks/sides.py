"""The sides of a comparison, each measured in a process of its own, so that memory and caches are."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def measured(script: str, arguments: Sequence[str], *what: str) -> dict[str, Any]:
    """What a script prints as JSON in its last line when it is told to measure only this."""
    command = [sys.executable, script, *arguments, "--only", *what]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    print(*what, {name: round(value, 3) for name, value in found.items() if isinstance(value, int | float)}, flush=True)
    return found


def shown(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
