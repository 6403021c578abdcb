"""The runs of a study: each a folder of its own with everything `plan train` and `plan evaluate` write, done once."""

import io
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from planner import Plan
from trainer.reports import EVALUATION, Evaluation, TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run."""

    entrant: str
    plan: str
    model: str
    data: tuple[str, ...]
    tests: tuple[str, ...]
    folder: str
    settings: TrainSettings
    threads: int


def workers() -> int:
    """Runs at a time: one per GPU, else one per core."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1


def threads(processes: int) -> int:
    """Of each run, when so many share the machine."""
    return max(1, (os.cpu_count() or 1) // processes)


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Evaluation]]:
    """All runs, those first that are already there."""
    todo = []
    for job in jobs:
        path = Path(job.folder) / EVALUATION
        if path.is_file():
            yield job, Evaluation.load(path)
        else:
            todo.append(job)
    if processes == 1:
        yield from ((job, _run(job)) for job in todo)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_run, job): job for job in todo}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            for future in running:
                future.cancel()


def _run(job: Job) -> Evaluation:
    """Train and evaluate, going on where an earlier attempt stopped."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a new process; see cli.py
    import torch

    from trainer import evaluate, train

    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with redirect_stderr(io.StringIO()):  # dozens of runs would each say what they adapted
            train(Plan.load(job.plan), job.model, job.data, job.folder, job.settings, resume=True)
            evaluation = evaluate(job.folder, job.tests, untrained=False)
    finally:
        torch.set_num_threads(before)
    evaluation.save(Path(job.folder) / EVALUATION)
    return evaluation
