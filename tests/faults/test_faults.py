"""Hostile inputs and kills: a sample in every run of the tests, thousands in the slow ones (docs/reliability.md)."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import Case, _verdict

ROOT = Path(__file__).parents[2]


def attack(*arguments, seconds):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.training
def test_five_hundred_hostile_inputs_are_refused_in_one_line_or_used(tmp_path):
    assert "500 cases, 0 not clean" in attack("tests.faults", "--cases", "500", "--folder", tmp_path, seconds=1500)


@pytest.mark.slow
@pytest.mark.training
def test_twenty_thousand_hostile_inputs(tmp_path):
    seeds = [part for seed in ("1", "2", "3") for part in ("--seed", seed)]
    found = attack("tests.faults", "--cases", "20000", *seeds, "--processes", "2", "--folder", tmp_path, seconds=20_000)
    assert "20000 cases, 0 not clean" in found


@pytest.mark.slow
@pytest.mark.training
def test_what_was_killed_ends_as_if_it_had_not_been(tmp_path):
    found = attack("tests.faults.kills", "--times", "50", "--folder", tmp_path, seconds=40_000)
    assert found.count("50 times killed, 0 not clean") == 5


TRACEBACK = "Traceback (most recent call last):\n  ...\nKeyError: 'a'\n"


@pytest.mark.parametrize(
    ("code", "said", "must", "new", "kind"),
    [
        (0, "", "any", (), None),
        (1, "Error: a: b\n", "any", (), None),
        (1, "Error: a: b\n", "refused", (), None),
        (0, "", "refused", (), "accepted"),
        (1, "Error: a: b\n", "accepted", (), "refused"),
        (70, TRACEBACK, "any", (), "traceback"),
        (-11, "", "any", (), "crash"),
        (1, "oh\n", "any", (), "no message"),
        (1, "Error: a\nError: b\n", "any", (), "several messages"),
        (3, "", "any", (), "exit code"),
        (1, "Error: a: b\n", "any", ("half.json",), "left behind"),
        (0, "", "any", ("whole.json",), None),
        (0, "", "any", (".whole.json.123",), "left behind"),
        (0, "", "any", (".run.lock",), "left behind"),
        (1, "Error: a: b\n", "any", ("CODE-WAS-RUN",), "code was run"),
    ],
)
def test_the_harness_tells_clean_cases_from_others(tmp_path, code, said, must, new, kind):
    (tmp_path / "in").mkdir()
    (tmp_path / "err").write_text(said)
    (tmp_path / "before").write_text("[]")
    for name in new:
        (tmp_path / "in" / name).touch()
    case = Case(family="any", prepare=lambda folder, rng: [], must=must)
    assert _verdict(tmp_path, case, code, False, 0)[0] == kind
    assert _verdict(tmp_path, case, -9, True, 0)[0] in ("hang", "code was run")
    if kind is None:
        assert _verdict(tmp_path, case, code, False, 2**31)[0] == "memory"
