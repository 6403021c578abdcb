"""kill -9 at random moments, then --resume: are the final adapters those of an uninterrupted run, bit for bit?

    python benchmarks/kill_resume.py [--times 20] [--seed 0] [--folder demo/kill]

Trains a uniform plan on a small part of the demo's data, on a CPU. Each time the process is killed at a random moment, up to
three times, and resumed until it finishes; then its adapters are compared with those of a run that nobody disturbed.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import planner
import spectra
from planner import AllocationSettings
from trainer.demo.classifier import link_model, write_corpus
from trainer.run_folder import WEIGHTS


def command(folder: Path, output: Path, *more: str) -> list[str]:
    """The run, as a user would type it."""
    return [
        sys.executable, "-m", "cli", "train", str(folder / "plan.json"), "--model", str(folder / "all-MiniLM-L6-v2"),
        "--data", str(folder / "part.jsonl"), "--max-steps", "30", "--batch-size", "8", "--max-length", "32",
        "-o", str(output), *more,
    ]  # fmt: skip


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("demo/kill"))
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    model = link_model(options.folder)
    train_file, _ = write_corpus(options.folder)
    (options.folder / "part.jsonl").write_text("".join(train_file.read_text().splitlines(keepends=True)[::20]))
    plan = planner.allocate("1%", AllocationSettings(strategy="uniform"), model=spectra.open_checkpoint(model))
    plan.save(options.folder / "plan.json")
    start = time.monotonic()
    subprocess.run(command(options.folder, options.folder / "whole"), check=True, capture_output=True)
    length = time.monotonic() - start
    wanted = (options.folder / "whole" / WEIGHTS).read_bytes()
    rng, same = random.Random(options.seed), 0
    for number in range(1, options.times + 1):
        output = options.folder / f"cut-{number}"
        kills = []
        for _ in range(rng.randint(1, 3)):
            process = subprocess.Popen(
                command(options.folder, output, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            kills.append(rng.uniform(0, length))
            try:
                process.wait(kills[-1])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        subprocess.run(command(options.folder, output, "--resume"), check=True, capture_output=True)
        equal = (output / WEIGHTS).read_bytes() == wanted
        same += equal
        moments = ", ".join(f"{moment:.1f}" for moment in kills)
        print(f"{number}: killed after {moments} of {length:.1f} s: {'the same bits' if equal else 'DIFFERENT'}", flush=True)
        shutil.rmtree(output)
    print(f"{same} of {options.times} the same")


if __name__ == "__main__":
    main()
