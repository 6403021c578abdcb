"""On a CUDA machine: all 224 matrices of a Llama-7B-shaped checkpoint, seconds and agreement with the CPU.

    python benchmarks/gpu_spectra.py [--layers 32] [--checked 2] [--output result.json]

Needs about 14 GB of disk and writes a JSON result. The bar: under 60 s, alpha within 1e-6 of the CPU's on the checked layers.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import spectra

SHAPES = {
    **{f"self_attn.{name}_proj": (4096, 4096) for name in "qkvo"},
    **{f"mlp.{name}_proj": (11008, 4096) for name in ("gate", "up")},
    "mlp.down_proj": (4096, 11008),
}


def build(folder: Path, layers: int) -> Path:
    """A bfloat16 checkpoint of Student-t matrices in Llama-7B's shapes, one shard per layer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    student = torch.distributions.StudentT(torch.tensor(3.0, device="cuda"))
    torch.manual_seed(0)
    for layer in range(layers):
        tensors = {
            f"model.layers.{layer}.{name}.weight": (0.02 * student.sample(shape)).bfloat16().cpu().contiguous()
            for name, shape in SHAPES.items()
        }
        save_file(tensors, folder / f"model-{layer:05}.safetensors")
    return folder


def main() -> None:
    """Measure, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--checked", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("demo/llama-shapes"))
    parser.add_argument("--output", type=Path, default=Path("demo/gpu_spectra.json"))
    options = parser.parse_args()
    few = build(options.folder / "few", options.checked)
    on_gpu, on_cpu = spectra.analyze(few, device="cuda"), spectra.analyze(few)
    worst = max(abs(ours.alpha / theirs.alpha - 1) for ours, theirs in zip(on_gpu.sites, on_cpu.sites, strict=True))
    everything = build(options.folder / "all", options.layers)
    torch.cuda.synchronize()
    start = time.perf_counter()
    report = spectra.analyze(everything, device="cuda")
    seconds = time.perf_counter() - start
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "matrices": len(report.sites),
        "seconds": round(seconds, 2),
        "largest relative difference of alpha to the CPU": worst,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
