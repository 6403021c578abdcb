"""Runs hostile cases: each in a forked child of a warm process, in a folder of its own, with limits on time and memory.

A case is clean if `plan` does what it is asked (exit code 0), or refuses it with one line (1 or 2) and leaves nothing behind.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SECONDS, BYTES, JUSTIFIED = 60, 3 << 30, 1 << 30  # a case's limits, and memory above the parent's that small inputs may take
MARK = "CODE-WAS-RUN"  # a file that no case may make


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile call."""

    family: str
    prepare: Callable[[Path, random.Random], list[object]]
    """Put the files into a folder and return the arguments of `plan`."""
    must: str = "any"
    """`refused`, `accepted`, or `any`; `steps` is any, and what is done of it before it is refused may stay."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that was not clean."""

    number: int
    family: str
    kind: str
    arguments: list[str]
    message: str


def run(number: int, seed: str, case: Case, folder: Path, base: int) -> Failure | None:
    """Run one case in a child; what was wrong, or None.

    Args:
        number: of the case in its seed.
        seed: what the case's random stream is drawn from, beside its number.
        case: what to do.
        folder: where files may go; the case's own folder is removed if it was clean.
        base: bytes that the parent holds.
    """
    own = folder / f"{seed}-{number}"
    shutil.rmtree(own, ignore_errors=True)
    (own / "in").mkdir(parents=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(own, case, random.Random(f"{seed}/{number}"))
    late = False
    while not (found := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() - began > SECONDS and not late:
            late = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(found[1])
    kind, message = _verdict(own, case, code, late, found[2].ru_maxrss * 1024 - base)
    arguments = json.loads((own / "arguments").read_text()) if (own / "arguments").exists() else []
    if kind is None:
        shutil.rmtree(own, ignore_errors=True)
        return None
    return Failure(number=number, family=case.family, kind=kind, arguments=arguments, message=message[:300])


def _child(own: Path, case: Case, rng: random.Random) -> None:
    """Become `plan` with the case's arguments; never returns."""
    code = 99
    try:
        os.setsid()
        os.chdir(own / "in")
        arguments = [
            str(one).encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for one in case.prepare(Path(), rng)
        ]
        (own / "arguments").write_text(json.dumps(arguments))
        (own / "before").write_text(json.dumps(_listing(Path())))
        held = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (held + BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(own / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        # Here, alone: of several threads that are the first to ask torch for its pool after a fork, one may find none.
        torch.set_num_threads(1)
        code = _plan(arguments)
    except BaseException:
        (own / "harness").write_text(traceback.format_exc())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _plan(arguments: list[str]) -> int:
    import cli

    try:
        cli.main.main(arguments, prog_name="plan")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def _listing(folder: Path) -> list[str]:
    return sorted(os.fsencode(path).decode("utf-8", "replace") for path in folder.rglob("*"))


def _verdict(own: Path, case: Case, code: int, late: bool, memory: int) -> tuple[str | None, str]:
    errors = (own / "err").read_text(errors="replace") if (own / "err").exists() else ""
    said = [line for line in errors.splitlines() if line.startswith("Error: ")]
    last = (said or errors.strip().splitlines() or [""])[-1]
    before = set(json.loads((own / "before").read_text())) if (own / "before").exists() else set()
    with contextlib.chdir(own / "in"):
        new = sorted(set(_listing(Path())) - before)
    refused = code in (1, 2)
    # Of what is left after a success only the marks of unfinished work count.
    left = new if refused and case.must != "steps" else [name for name in new if re.search(r"(^|/)\.[^/]*\.(\d+|lock)$", name)]
    faults = {
        "harness": (own / "harness").exists() and (own / "harness").read_text().strip().splitlines()[-1],
        "code was run": (own / "in" / MARK).exists() and "!",
        "hang": late and f"over {SECONDS} s",
        "crash": code < 0 and not late and signal.Signals(-code).name,
        "traceback": "Traceback (most recent call last)" in errors and errors.strip().splitlines()[-1],
        "no message": refused and not said and (last or "nothing was said"),
        "several messages": len(said) > 1 and " | ".join(said),
        "exit code": code not in (0, 1, 2) and str(code),
        "memory": memory > JUSTIFIED and f"{memory / 2**30:.1f} GiB",
        "accepted": code == 0 and case.must == "refused" and "was to be refused",
        "refused": refused and case.must == "accepted" and last,
        "left behind": left and ", ".join(left[:8]),
    }
    return next(((kind, str(found)) for kind, found in faults.items() if found), (None, ""))
