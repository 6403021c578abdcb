"""Workers of a study."""

import signal
import subprocess
import sys
import time

STUDY = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from trainer.jobs import _begin

if __name__ == "__main__":
    context = get_context("spawn")
    devices = context.SimpleQueue()
    devices.put(0)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(devices,)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_runs_end_with_a_study_that_was_killed(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as study:
        worker = int(study.stdout.readline())
        assert _runs(worker)
        study.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30
    while time.monotonic() < until and _runs(worker):
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    """Whether a process is there and no zombie that nobody has waited for yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")
