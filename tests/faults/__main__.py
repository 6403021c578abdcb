"""`python -m tests.faults --cases 20000 --seed 0 --seed 1 --seed 2`: hostile inputs by the thousand, and what was not clean.

Exit code 1 if anything was. A failure's folder stays, with its inputs, arguments and output, and `--only FAMILY --number N` runs one
case again.
"""

import argparse
import contextlib
import importlib
import os
import pkgutil
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

QUIET = {
    "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", action="append", help="repeat for several; by default 0")
    parser.add_argument("--cases", type=int, default=500, help="over all seeds together")
    parser.add_argument("--only", help="a family")
    parser.add_argument("--number", type=int, help="this case alone")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where failures stay; by default a new one")
    asked = parser.parse_args()
    os.environ.update(QUIET)
    folder = (asked.folder or Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(HF_HOME=str(folder / "hub"), LORAPLAN_CACHE=str(folder / "cache"), TMPDIR=str(folder))
    tempfile.tempdir = str(folder)
    began = time.monotonic()
    warm()
    from tests.faults import families

    families.GIVEN = made(folder / "given")
    seeds = asked.seed or ["0"]
    each = -(-asked.cases // len(seeds))
    todo = [(seed, number) for number in range(each) for seed in seeds][: asked.cases]
    if asked.number is not None:
        todo = [(seed, asked.number) for seed in seeds]
    print(f"{len(todo)} cases in {folder}", flush=True)
    mine = next((number for number in range(1, asked.processes) if os.fork() == 0), 0)  # a child stops here and forks no more
    failures, counts = _run(todo[mine :: asked.processes], asked.only, folder, mine)
    for _ in range(0 if mine else asked.processes - 1):
        failures += os.waitstatus_to_exitcode(os.wait()[1])
    if mine:
        os._exit(min(failures, 100))
    print(
        f"{len(todo)} cases, {failures} not clean, {time.monotonic() - began:.0f} s",
        *[f"  {n} x {c}" for n, c in sorted(counts.items())],
        sep="\n",
    )
    sys.exit(failures > 0)


def made(folder):
    """The folder of valid inputs, made if it is not there."""
    from tests.faults import fixtures

    if not folder.exists():
        sys.stdout.flush()
        if os.fork() == 0:  # in a child, because the parent must have no threads when it forks
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with contextlib.suppress(SystemExit):
                fixtures.make(folder)
                os._exit(0)
            os._exit(1)
        assert os.wait()[1] == 0, "the fixtures cannot be made"
    return folder


def warm():
    """Import whatever a case may, so that a forked child starts at once; nothing here starts a thread."""
    warnings.simplefilter("ignore")
    import bitsandbytes  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    import transformers

    import planner
    import spectra
    import trainer

    for package in (spectra, planner, trainer):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    for name in ("BertModel", "BertForSequenceClassification", "LlamaForCausalLM", "LlamaForSequenceClassification", "GPT2LMHeadModel",
                 "OlmoeForCausalLM", "PreTrainedTokenizerFast", "Trainer"):  # fmt: skip
        getattr(transformers, name)
    torch.set_num_threads(1)


def _run(todo, only, folder, worker):
    from tests.faults.families import FAMILIES
    from tests.faults.harness import Case, run

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    names, shares = list(FAMILIES), [share for share, _, _ in FAMILIES.values()]
    found, counts = 0, Counter()
    for done, (seed, number) in enumerate(todo, start=1):
        (name,) = random.Random(f"family {seed}/{number}").choices(names, shares)
        if only and name != only:
            continue
        counts[name] += 1
        _, prepare, must = FAMILIES[name]
        if failure := run(number, seed, Case(family=name, prepare=prepare, must=must), folder, base):
            found += 1
            print(f"seed {seed}, case {number}, {failure.family}: {failure.kind}: {failure.message}\n   plan "
                  f"{' '.join(failure.arguments)[:200]}", flush=True)  # fmt: skip
        if done % 500 == 0:
            print(f"{done} of {len(todo)} in process {worker}, {found} not clean", flush=True)
    return found, counts


if __name__ == "__main__":
    main()
