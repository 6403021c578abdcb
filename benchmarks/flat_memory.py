"""Does memory grow with the checkpoint? `spectra.analyze` on checkpoints of growing size but equal matrices (Linux only).

    python benchmarks/flat_memory.py [--gigabytes 1 4] [--shape 4096 1024]

The checkpoints are bfloat16, in shards of about a gigabyte. Prints the peak above what the process held after its imports, beside
twice the largest matrix in float64. Each size is deleted when it has been measured.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

ANALYSE = """
import json, sys
import torch, spectra
from benchmarks.memory import peak_above_now
torch.linalg.eigvalsh(torch.eye(64, dtype=torch.float64))
memory = peak_above_now()
report = spectra.analyze(sys.argv[1])
print(json.dumps([memory() / 1024, len(report.sites)]))
"""


def build(folder: Path, gigabytes: float, shape: tuple[int, int]) -> None:
    """Write a checkpoint; each shard holds the same bytes under other names."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 2 * shape[0] * shape[1]
    per_shard = max(1, int(1e9) // size)
    values = os.urandom(size // 2)
    # Random mantissas under a fixed exponent: finite values between 1 and 2 with either sign.
    weights = b"".join(bytes((low, 0x3F | (low & 0x80))) for low in values)
    for shard in range(max(1, round(gigabytes))):
        names = [f"layers.{shard * per_shard + index}.linear.weight" for index in range(per_shard)]
        entries = {name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [index * size, (index + 1) * size]}
                   for index, name in enumerate(names)}  # fmt: skip
        header = json.dumps(entries).encode()
        with (folder / f"shard-{shard:05}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for _ in names:
                file.write(weights)


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 1024])
    parser.add_argument("--folder", type=Path, default=Path("demo/flat"))
    options = parser.parse_args()
    bound = 2 * 8 * options.shape[0] * options.shape[1] / 2**20
    for gigabytes in options.gigabytes:
        folder = options.folder / f"{gigabytes:g}"
        build(folder, gigabytes, tuple(options.shape))
        result = subprocess.run([sys.executable, "-c", ANALYSE, str(folder)], capture_output=True, text=True, check=True)
        peak, sites = json.loads(result.stdout)
        shutil.rmtree(folder)
        print(f"{gigabytes:g} GB, {sites} matrices: peak {peak:.0f} MiB; twice the largest matrix in float64 is {bound:.0f} MiB")


if __name__ == "__main__":
    main()
