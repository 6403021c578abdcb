"""`python -m tests.faults.kills --times 50`: analyze, probe, train and compare, killed at random moments and run again.

The result has to be that of a run that nobody interrupted, to the last bit. Meanwhile every file that appears is read again and
again, and must be whole each time; and nothing that a killed process has started may live on.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.faults import families, fixtures
from tests.faults.__main__ import QUIET, made, warm
from tests.golden.make import steady

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRAIN = ["--evaluations", 4, "--max-steps", 12, "--batch-size", 4, "--max-length", 16, "-o", "out"]
STUDY = "study/study.json"
STEPS = ["--max-steps", 4, "--binding", "note", "--lr-sweep", "0.001,0.01"]


def commands(given):
    """Name -> the arguments, those that are added when it is run again, and the files that have to be equal."""
    data = ["--data", given / "text.jsonl"]
    return {
        "analyze": (
            [
                "analyze",
                given / "olmoe",
                "-o",
                "out.json",
                "--csv",
                "out.csv",
                "--keep-eigenvalues",
                "out.st",
                "--bootstrap",
                100,
            ],
            [],
            ["out.json", "out.csv", "out.st"],
        ),
        "probe": (
            ["probe", given / "llama", *data, *fixtures.FEW, "--trial-steps", 8, "-o", "out.json"],
            [],
            ["out.json"],
        ),
        "train": (
            [
                "train",
                given / "llama.mixture.json",
                "--model",
                given / "llama",
                *data,
                "--eval-data",
                given / "text.jsonl",
                *TRAIN,
            ],
            ["--resume"],
            [
                f"out/{best}{name}"
                for best in ("", "best/")
                for name in ("adapter_model.safetensors", "loraplan.json", "plan.json")
            ],
        ),
        "compare": ([*fixtures_compare(given, 1)], [], [STUDY]),
        "compare in workers": ([*fixtures_compare(given, 2)], [], [STUDY]),
    }


def fixtures_compare(given, processes):
    """A study with all steps: sizes, learning rates, and five arms with two seeds."""
    return ["compare", *fixtures.compare(given)[:-1], processes, *STEPS, "-o", "study"]


def start(arguments, folder):
    """Begin a command in a child with a session of its own; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"../{folder.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["plan", *map(str, arguments)]
    import cli

    try:
        cli.main.main([str(one) for one in arguments], prog_name="plan")
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(0)


def watch(child, folder, until):
    """Wait for a child, or until a moment, and read what it writes; its status if it ended, and what was torn."""
    torn = []
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        torn += [str(path) for path in _documents(folder) if not _whole(path)]
        if ended:
            return os.waitstatus_to_exitcode(status), torn
        time.sleep(0.003)
    return None, torn


def _documents(folder):
    for place, _, names in os.walk(folder):  # which minds no folder that goes meanwhile
        yield from (Path(place, name) for name in names if name.endswith(".json") and not name.startswith("."))


def _whole(path):
    try:
        json.loads(path.read_text())
    except OSError:  # removed meanwhile
        return True
    except ValueError:
        # What the Trainer writes itself, into a checkpoint that is not sealed yet.
        return "checkpoints" in path.parts
    return True


def content(path):
    """What has to be equal: the bytes without times and memory, or of eigenvalues the values, whose metadata have no order."""
    if path.suffix == ".st":
        from safetensors.numpy import load_file

        return {name: values.tobytes() for name, values in load_file(path).items()}
    return steady(path.read_text(), path.parent) if path.suffix == ".json" else path.read_bytes()


def living(session):
    """Processes of a session that are not over."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def attack(arguments, again, length, folder, rng, sign):
    """Kill a command once or twice, then let it end; everything that was wrong on the way."""
    faults = []
    for cut in range(rng.choice([1, 1, 1, 2])):
        child = start([*arguments, *(again if cut else [])], folder)
        code, torn = watch(child, folder, time.monotonic() + rng.uniform(0, 1.02 * length))
        if code is None:
            (os.killpg if sign == signal.SIGINT else os.kill)(child, sign)
            code, more = watch(child, folder, time.monotonic() + 30)
            torn += more
            if code is None:
                faults.append("was alive 30 s after the signal")
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
        faults += [f"torn: {path}" for path in torn[:1]]
        until = time.monotonic() + 15
        while (orphans := living(child)) and time.monotonic() < until:
            time.sleep(0.05)
        if orphans:
            faults.append(f"orphans: {orphans}")
        said = (folder.parent / f"{folder.name}.stderr").read_text(errors="replace")
        if "Traceback" in said:
            (folder.parent / f"{folder.name}.traceback").write_text(said)  # the next start writes over the other file
            faults.append("traceback")
    code, torn = watch(start([*arguments, *again], folder), folder, time.monotonic() + 300)
    if code != 0:
        faults.append(f"run again: exit code {code}: {(folder.parent / f'{folder.name}.stderr').read_text()[-300:]}")
    return [*faults, *(f"torn: {path}" for path in torn[:1])]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="kills of each command")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--only", help="a command")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    os.environ.update(QUIET)
    folder = (asked.folder or Path(tempfile.mkdtemp(prefix="kills-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(HF_HOME=str(folder / "hub"), LORAPLAN_CACHE=str(folder / "cache"), TMPDIR=str(folder))
    tempfile.tempdir = str(folder)
    warm()
    families.GIVEN = made(folder / "given")
    bad = 0
    for name, (arguments, again, equal) in commands(families.GIVEN).items():
        if asked.only and name != asked.only:
            continue
        base = folder / f"{name}-base"
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        began = time.monotonic()
        code, _ = watch(start(arguments, base), base, began + 300)
        length = time.monotonic() - began
        assert code == 0, (folder / f"{base.name}.stderr").read_text()[-2000:]
        failures = 0
        for number in range(asked.times):
            own = folder / f"{name}-{number}"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            faults = attack(arguments, again, length, own, random.Random(f"{asked.seed}/{name}/{number}"), SIGNALS[number % 3])
            faults += [f"differs: {file}" for file in equal if not faults and content(own / file) != content(base / file)]
            extra = {str(path.relative_to(own)) for path in own.rglob(".*")} - {
                str(path.relative_to(base)) for path in base.rglob(".*")
            }
            faults += [f"left behind: {sorted(extra)}"] if extra else []
            if faults:
                failures += 1
                print(f"{name} {number}, {SIGNALS[number % 3].name}: {'; '.join(faults)}", flush=True)
            else:
                shutil.rmtree(own)
        print(f"{name}: {length:.1f} s uninterrupted; {asked.times} times killed, {failures} not clean", flush=True)
        bad += failures
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
