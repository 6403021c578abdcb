"""The runs of a study: each a folder of its own with everything `plan train` and `plan evaluate` write, done once."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from planner import Plan
from spectra import InputError
from spectra.core.log import LOG, warnings_only
from trainer.quiet import quiet_libraries
from trainer.report import Evaluation
from trainer.run_folder import EVALUATION
from trainer.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run."""

    candidate: str
    plan: str
    model: str
    data: tuple[str, ...]
    tests: tuple[str, ...]
    folder: str
    settings: TrainSettings
    threads: int
    of_sweep: bool = False
    """Whether a loss that is not finite is an answer, instead of a reason to stop."""

    @property
    def result(self) -> Path:
        """The study's own copy of the scores: `plan evaluate` on the run's folder may write others there."""
        return Path(self.folder) / "study-evaluation.json"


def workers() -> int:
    """Runs at a time: one per GPU, else one per core."""
    return _gpus() or os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def threads(processes: int) -> int:
    """Threads of each run, when so many share the machine."""
    return max(1, (os.cpu_count() or 1) // processes)


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Evaluation | None]]:
    """All runs, those first that are already there; None for a trial that diverged.

    Raises:
        InputError: a run that cannot be trained, or a worker that was killed though it was alone.
    """
    todo = []
    for job in jobs:
        if job.result.exists():
            yield job, _kept(job)
        else:
            todo.append(job)
    if processes == 1:
        yield from ((job, _run(job)) for job in todo)
        return
    # The kernel kills for want of memory. With one worker killed a pool can do nothing more, so the rest gets a smaller one.
    for at_a_time in range(processes, 0, -1):
        done = set()
        try:
            for job, evaluation in _in_workers(todo, at_a_time):
                done.add(job.folder)
                yield job, evaluation
            return
        except BrokenProcessPool:
            todo = [job for job in todo if job.folder not in done]
            LOG.warning(f"a worker was killed, perhaps for want of memory; going on with {max(1, at_a_time - 1)} at a time")
    raise InputError(
        f"{todo[0].folder}: its process was killed, though it ran alone; is there memory for one run? Repeat the command"
    )


def _kept(job: Job) -> Evaluation:
    found = Evaluation.load(job.result)
    if [task.name for task in found.tasks] != [Path(test).stem for test in job.tests]:
        raise InputError(f"{job.result}: has the scores of other tasks; remove it to repeat the run")
    return found


def _in_workers(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Evaluation | None]]:
    # A forked process can use neither CUDA nor torch's threads if its parent has begun to.
    context = get_context("spawn")
    # Workers have no numbers of their own; each takes one device out of the queue when it starts.
    devices = context.SimpleQueue()
    for slot in range(processes):
        devices.put(slot % max(1, _gpus()))  # more runs than GPUs share them
    others = set(active_children())
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(devices,)) as pool:
        running: dict[Future[Evaluation | None], Job] = {}
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


def _run(job: Job) -> Evaluation | None:
    """Train and evaluate, going on where an earlier attempt stopped."""
    # What loads torch is imported here, in the worker, after `_take_device`: once torch has looked for GPUs, CUDA_VISIBLE_DEVICES
    # changes nothing.
    import torch

    from trainer.evaluation.evaluate import evaluate
    from trainer.limits import DivergedError
    from trainer.training.train import train

    # Put back afterwards, because with one process at a time this is the caller's own.
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with warnings_only():  # dozens of runs would each say what they adapted
            train(Plan.load(job.plan), job.model, job.data, job.folder, job.settings, resume=True)
            evaluation = evaluate(job.folder, job.tests, untrained=False, precision=job.settings.precision)
    except DivergedError:
        if not job.of_sweep:
            raise
        return None
    finally:
        torch.set_num_threads(before)
    evaluation.save(Path(job.folder) / EVALUATION)
    # Last: this file is what says that the run is done.
    evaluation.save(job.result)
    return evaluation
