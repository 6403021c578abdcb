"""The runs of a study: each a folder of its own with everything that `plan train` writes, done once, by whoever comes first.

A run is known by its content (study.py), so that several studies, processes and machines can share a folder of runs: a run that
another one is doing is left to it and waited for.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from planner import Plan
from spectra import InputError
from spectra.core.documents import Document, Measured, Value
from spectra.core.locks import HeldError, held
from spectra.core.log import LOG, warnings_only
from trainer.quiet import quiet_libraries
from trainer.report import Scores
from trainer.settings import TrainSettings

OUTCOME = "outcome.json"
WAIT = 2.0  # seconds between two looks at a run that another process is doing


class Scored(Value):
    """What a run scored on one file."""

    scores: Scores
    by_example: dict[str, tuple[Measured, ...]]
    """Measure -> value of every example, in the file's order."""


class Outcome(Document):
    """How a run of a study ended."""

    kind: Literal["outcome"] = "outcome"
    diverged: str = ""
    """Why there are no scores: the loss was not finite."""
    seconds: Measured
    """Of training; NaN for a run that was interrupted and resumed."""
    peak_memory: int
    tests: dict[str, Scored]
    """Content's sha256 of a held-out file -> its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run."""

    arm: str
    plan: Plan
    plan_file: str
    model: str
    data: tuple[str, ...]
    tests: Mapping[str, str]
    """Content's sha256 -> held-out file."""
    folder: str
    settings: TrainSettings
    threads: int

    @property
    def key(self) -> str:
        """What the run is known by, whatever its arm is called."""
        return Path(self.folder).name.rpartition(".")[2]

    @property
    def outcome(self) -> Path:
        """The study's own note of how the run ended."""
        return Path(self.folder) / OUTCOME

    @property
    def kept(self) -> Outcome | None:
        """The outcome, if it is there and has all tests."""
        if not self.outcome.exists():
            return None
        found = Outcome.load(self.outcome)
        return found if found.diverged or self.tests.keys() <= found.tests.keys() else None


def workers() -> int:
    """Runs at a time: one per GPU, else one per core."""
    return _gpus() or os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def threads(processes: int) -> int:
    """Threads of each run, when so many share the machine."""
    return max(1, (os.cpu_count() or 1) // processes)


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Outcome]]:
    """All runs, those first that are already there.

    Raises:
        InputError: a run that cannot be trained, or a worker that was killed though it was alone.
    """
    todo = []
    for job in jobs:
        if found := job.kept:
            yield job, found
        else:
            todo.append(job)
    while todo:
        # Those that another process has in hand come back as None, and are looked at again.
        done = set()
        for job, outcome in _pass(todo, processes):
            if outcome:
                done.add(job.folder)
                yield job, outcome
        todo = [job for job in todo if job.folder not in done]
        if todo and not done:
            time.sleep(WAIT)


def _pass(todo: Sequence[Job], processes: int) -> Iterator[tuple[Job, Outcome | None]]:
    """Every run once; None for those that another process is doing."""
    if processes == 1:
        yield from ((job, _run(job)) for job in todo)
        return
    left = list(todo)
    # The kernel kills for want of memory. With one worker killed a pool can do nothing more, so the rest gets a smaller one.
    for at_a_time in range(min(processes, len(left)), 0, -1):
        done = set()
        try:
            for job, outcome in _in_workers(left, at_a_time):
                done.add(job.folder)
                yield job, outcome
            return
        except BrokenProcessPool:
            left = [job for job in left if job.folder not in done]
            LOG.warning(f"a worker was killed, perhaps for want of memory; going on with {max(1, at_a_time - 1)} at a time")
    raise InputError(
        f"{left[0].folder}: its process was killed, though it ran alone; is there memory for one run? Repeat the command"
    )


def _in_workers(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Outcome | None]]:
    # A forked process can use neither CUDA nor torch's threads if its parent has begun to.
    context = get_context("spawn")
    # Workers have no numbers of their own; each takes one device out of the queue when it starts.
    devices = context.SimpleQueue()
    for slot in range(processes):
        devices.put(slot % max(1, _gpus()))  # more runs than GPUs share them
    others = set(active_children())
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(devices,)) as pool:
        running: dict[Future[Outcome | None], Job] = {}
        try:
            with _no_interrupt():
                running |= {pool.submit(_run, job): job for job in jobs}
            for future in as_completed(running):
                yield running[future], future.result()
        except (KeyboardInterrupt, GeneratorExit):  # the second where it was the caller who was interrupted
            # The pool would wait for the runs that its workers have in hand. They are resumed where they were cut. Without its
            # workers it gives up the others by itself; cancelled at the same time, it would print a traceback.
            for worker in set(active_children()) - others:
                worker.terminate()
            raise
        except BaseException:
            # A run failed: those that have not begun never do.
            for future in running:
                future.cancel()
            raise


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it is sent to all of a terminal's processes, and each would print a traceback.

    A child inherits which signals are blocked, and keeps it; whoever started it ends it. A Ctrl-C that comes meanwhile waits.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(devices: Any) -> None:
    """Prepare a worker process; it is a new one, so nothing that its parent set holds here."""
    _take_device(devices)  # before anything has looked for a GPU
    quiet_libraries()
    Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End a run whose study was killed: resumed, the study would meet it in the same folder."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    # `sys.exit` would end this thread only.
    os._exit(1)


def _take_device(devices: Any) -> None:
    """Give a worker a GPU of its own, before anything has looked for one."""
    # The user may have given the study some of the GPUs; a worker takes one of these, by its number among them.
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = devices.get()
    os.environ["CUDA_VISIBLE_DEVICES"] = given.split(",")[number % len(given.split(","))] if given else str(number)


def _run(job: Job) -> Outcome | None:
    """Train and score, going on where an earlier attempt stopped; None if another process is at it."""
    try:
        # Beside the folder, which the run itself holds while it trains.
        with held(Path(job.folder).with_name(job.key), "does this run"):
            return job.kept or _done(job)
    except HeldError:
        return None


def _done(job: Job) -> Outcome:
    # What loads torch is imported here, in the worker, after `_take_device`: once torch has looked for GPUs, CUDA_VISIBLE_DEVICES
    # changes nothing.
    import torch

    from trainer.evaluation.evaluate import evaluate
    from trainer.limits import DivergedError
    from trainer.training.train import train

    # Put back afterwards, because with one process at a time this is the caller's own.
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    known = Outcome.load(job.outcome) if job.outcome.exists() else None
    begun = time.monotonic()
    try:
        with warnings_only():  # dozens of runs would each say what they adapted
            report = train(Plan.load(job.plan_file), job.model, job.data, job.folder, job.settings, resume=True)
            seconds, memory = (known.seconds, known.peak_memory) if known else (report.seconds, report.peak_memory)
            missing = {digest: file for digest, file in job.tests.items() if not known or digest not in known.tests}
            options: dict[str, Any] = {"untrained": False, "by_example": True, "precision": job.settings.precision}
            evaluation = evaluate(job.folder, list(missing.values()), **options)
    except DivergedError as error:
        found = Outcome(diverged=str(error), seconds=time.monotonic() - begun, peak_memory=0, tests={})
    else:
        scored = {
            digest: Scored(scores=task.trained, by_example=task.by_example)
            for digest, task in zip(missing, evaluation.tasks, strict=True)
        }
        found = Outcome(seconds=seconds, peak_memory=memory, tests=(known.tests if known else {}) | scored)
    finally:
        torch.set_num_threads(before)
    Path(job.folder).mkdir(parents=True, exist_ok=True)  # a run that diverged at once has left none
    # Last: this file is what says that the run is done.
    found.save(job.outcome)
    return found
