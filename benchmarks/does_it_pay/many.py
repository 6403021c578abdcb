"""Many short runs at once on one GPU: the adapters of K runs over one frozen base, every step of all runs in one pass.

A small language model does not fill a GPU, and a study consists of hundreds of runs on the same base. Here the batches of K runs
lie one after the other in one pass, the base's products serve all of them, and each run's adapters see their own rows alone. On
a GPU a step is captured as a CUDA graph once and replayed, or launching its kernels would take most of the time. A run has what
`plan train` gives it: its order of the data, its initial numbers, AdamW, clipping, warm-up and decay of its own.
`python benchmarks/does_it_pay/many.py MODEL TRAIN.jsonl` holds two of its runs against `plan train` (same losses to rounding).

Plans are plain LoRAs on linear modules. Shapes: K runs, b rows per run, T tokens, R rank (padded to the largest of the K).
"""

import gc
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CLIP, BETAS, EPS = 1.0, (0.9, 0.999), 1e-8  # transformers.TrainingArguments' own


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: `ranks` has a rank for every adapted module."""

    name: str
    ranks: dict[str, int]
    rate: float
    seed: int
    alpha: float = 4.0
    ratio: float = 1.0
    """B's learning rate over A's."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """N tokenised examples, padded at the right to T tokens: no real token sees padding under a causal mask.

    A last row of padding alone fills up an epoch's last batch.
    """

    ids: Tensor
    """(N + 1, T)."""
    positions: Tensor
    """(N + 1, M): where a label is predicted, 0 where a row has fewer."""
    targets: Tensor
    """(N + 1, M): the token there; -100 where a row has fewer."""
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, examples: Any, device: str) -> "Rows":
        """From the rows that `trainer.data.tokenize.tokenise` makes."""
        lists, labels = [list(row) for row in examples["input_ids"]], [list(row) for row in examples["labels"]]
        longest = max(map(len, lists))
        predicted = [[(at - 1, label) for at, label in enumerate(row) if label != -100 and at] for row in labels]
        most = max(map(len, predicted))
        return cls(
            ids=torch.tensor([row + [0] * (longest - len(row)) for row in [*lists, []]]).to(device),
            positions=torch.tensor([[at for at, _ in row] + [0] * (most - len(row)) for row in [*predicted, []]]).to(device),
            targets=torch.tensor([[label for _, label in row] + [-100] * (most - len(row)) for row in [*predicted, []]]).to(
                device
            ),
            lengths=torch.tensor([len(row) for row in lists]),
        )


class ManyLora(torch.autograd.Function):
    """A frozen linear layer's output for the rows of K runs, each with its own A and B; gradients go into buffers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, A: Tensor, B: Tensor, scale: Tensor, dA: Tensor, dB: Tensor) -> Tensor:
        """From x (K b T, d_in), weight (d_out, d_in), A (K, R, d_in), B (K, d_out, R), scale (K, 1, 1)."""
        runs = len(A)
        xs = x.view(runs, -1, x.shape[-1])
        z = torch.bmm(xs, A.mT) * scale
        # The base's product is added onto the update, which is rounded once (trainer/layers/low_rank.py).
        y = torch.addmm(torch.bmm(z, B.mT).view(len(x), -1), x, weight.T)
        ctx.save_for_backward(x, z, weight, A, B, scale)
        ctx.into = dA, dB
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """dx; dA and dB are written."""
        x, z, weight, A, B, scale = ctx.saved_tensors
        dA, dB = ctx.into
        dy = gradients[0].contiguous()
        dys, xs = dy.view(len(A), -1, dy.shape[-1]), x.view(len(A), -1, x.shape[-1])
        dz = torch.bmm(dys, B) * scale
        dB.copy_(torch.bmm(dys.mT, z))
        dA.copy_(torch.bmm(dz.mT, xs))
        dx = torch.addmm(torch.bmm(dz, A).view(x.shape), dy, weight)
        return dx, None, None, None, None, None, None


class Site(nn.Module):
    """In the place of a linear module: with adapters while runs are going on."""

    def __init__(self, base: nn.Linear) -> None:
        """Wrap a bias-free linear layer."""
        super().__init__()
        assert base.bias is None
        self.weight = base.weight
        self.adapters: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_in) to (..., d_out)."""
        if not self.adapters:
            return nn.functional.linear(x, self.weight)
        found: Tensor = ManyLora.apply(x.reshape(-1, x.shape[-1]), self.weight, *self.adapters)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)


class Many:
    """Trains and scores groups of runs on one base model."""

    def __init__(self, model: Any, modules: Sequence[str], steps: int, batch: int, warmup: float = 0.1) -> None:
        """Take over a causal language model; `modules` are those that some plan may adapt."""
        model.requires_grad_(False).eval()
        self.model, self.steps, self.batch, self.warmup = model, steps, batch, round(warmup * steps)
        self.sites: dict[str, Site] = {}
        for name in modules:
            parent, _, child = name.rpartition(".")
            self.sites[name] = Site(model.get_submodule(name))
            setattr(model.get_submodule(parent), child, self.sites[name])
        for name, module in model.named_modules():
            if name.endswith("norm"):  # the fused kernel of torch, as trainer/layers has it
                module.forward = lambda x, of=module: nn.functional.rms_norm(x, (x.shape[-1],), of.weight, of.variance_epsilon)
        # Nothing but the adapters wants a gradient, and autograd must reach them from the first layer on.
        model.get_input_embeddings().register_forward_hook(
            lambda _m, _i, output: output.requires_grad_() if torch.is_grad_enabled() else output
        )
        self.device = next(model.parameters()).device

    def train(self, runs: Sequence[Run], rows: Rows) -> list[float]:
        """Train all runs; what they learned stays in the sites for `losses`.

        Returns:
            Each run's mean training loss over its last tenth of steps; NaN if it diverged.
        """
        self.forget()
        self._start(runs)
        orders = torch.stack([self._order(run.seed, len(rows)) for run in runs], dim=1).flatten(1).to(self.device)
        self.index, self.numbers = orders[0].clone(), torch.ones(3, device=self.device)
        self.rates = torch.tensor([run.rate for run in runs], device=self.device)[:, None] * self.ratios
        step_once = self._captured(rows, len(runs)) if self.device.type == "cuda" else lambda: self._step(rows, len(runs))
        last, counted = torch.zeros(len(runs), device=self.device), max(1, self.steps // 10)
        for step in range(self.steps):
            share = step / self.warmup if step < self.warmup else (self.steps - step) / max(1, self.steps - self.warmup)
            self.index.copy_(orders[step])
            self.numbers.copy_(torch.tensor([share, 1 - BETAS[0] ** (step + 1), 1 - BETAS[1] ** (step + 1)]))
            step_once()
            if step >= self.steps - counted:
                last += self.step_losses
        return (last / counted).tolist()

    def forget(self) -> None:
        """Let go of all runs and the memory they took."""
        for site in self.sites.values():
            site.adapters = ()
        self.__dict__.pop("step_losses", None)
        gc.collect()
        torch.cuda.empty_cache()

    def _captured(self, rows: Rows, runs: int) -> Callable[[], None]:
        """A step as a graph. Capturing needs a few steps before it, whose traces are removed."""
        begun, graph, aside = self.flat.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._step(rows, runs)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            self._step(rows, runs)
        self.flat.copy_(begun)
        for moment in (self.first, self.second):
            moment.zero_()
        self._cast()
        return graph.replay

    def _step(self, rows: Rows, runs: int) -> None:
        """One step of all runs, from `index` and `numbers` alone."""
        losses, counts = self._token_losses(self.index, rows, rows.ids.shape[1])
        # A mean over the labels of a run's step, as transformers.Trainer has it.
        per_run = losses.view(runs, -1).sum(1) / counts.view(runs, -1).sum(1)
        per_run.sum().backward()
        self.step_losses = per_run.detach()
        self.grad.mul_((CLIP / (self.grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0))
        share, of_first, of_second = self.numbers
        self.first.lerp_(self.grad, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(self.grad, self.grad, value=1 - BETAS[1])
        self.flat.sub_((self.first / of_first).div_((self.second / of_second).sqrt_().add_(EPS)).mul_(self.rates * share))
        self._cast()

    @torch.no_grad()
    def losses(self, rows: Rows, runs: int, tokens: int = 131072) -> np.ndarray:
        """(runs, rows): loss per labelled token of every example, in the file's order."""
        ranking = torch.argsort(rows.lengths, descending=True)
        found = torch.zeros(runs, len(ranking), device=self.device)
        start = 0
        while start < len(ranking):
            length = int(rows.lengths[ranking[start]])
            group = ranking[start : start + max(1, tokens // (length * runs))].to(self.device)
            start += len(group)
            losses, counts = self._token_losses(group.repeat(runs), rows, length)
            found[:, group] = (losses.sum(1) / counts.clamp(min=1)).view(runs, -1)
        return found.cpu().numpy()

    def _token_losses(self, chosen: Tensor, rows: Rows, length: int) -> tuple[Tensor, Tensor]:
        """(rows, M) losses of labelled tokens, zero where a row has fewer, and (rows,) their number."""
        # Without cache and mask: a causal kernel, in which padding at the right is seen by nobody.
        hidden = self.model.model(input_ids=rows.ids[chosen, :length], use_cache=False).last_hidden_state
        positions, targets = rows.positions[chosen].clamp(max=length - 1), rows.targets[chosen]
        kept = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.model.lm_head(kept.flatten(0, 1)).float()
        losses = nn.functional.cross_entropy(logits, targets.flatten(), reduction="none", ignore_index=-100)
        return losses.view(targets.shape), (targets != -100).sum(1)

    def _order(self, seed: int, count: int) -> Tensor:
        """(steps, batch): every step's examples as accelerate's seeded sampler draws them; an epoch's last batch is filled up."""
        found: list[Tensor] = []
        epoch = 0
        while len(found) < self.steps:
            shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
            found += shuffled.split(self.batch)
            epoch += 1
        return torch.stack([nn.functional.pad(one, (0, self.batch - len(one)), value=count) for one in found[: self.steps]])

    def _start(self, runs: Sequence[Run]) -> None:
        """Draw all runs' adapters into one matrix, a run per row, of which every site's A and B are views."""
        runs_count, self.parts, width = len(runs), [], 0
        for name, site in self.sites.items():
            rank, (d_out, d_in) = max(run.ranks.get(name, 0) for run in runs), site.weight.shape
            if rank:
                self.parts.append((site, name, rank, width, width + rank * d_in))
                width += rank * (d_in + d_out)
            site.adapters = ()
        self.flat = torch.zeros(runs_count, width, device=self.device)
        self.grad, self.first, self.second = (torch.zeros_like(self.flat) for _ in range(3))
        self.half = torch.zeros_like(self.flat, dtype=next(self.model.parameters()).dtype)
        self.ratios = torch.ones(runs_count, width, device=self.device) if any(run.ratio != 1 for run in runs) else 1.0
        initial, scales = torch.zeros(runs_count, width), []
        for number, run in enumerate(runs):
            seed, given = first_number(run.seed), [rank for rank in run.ranks.values() if rank]
            run_alpha = run.alpha * math.sqrt(sum(given) / len(given))
            for site, name, _, begin, middle in self.parts:
                if rank := run.ranks.get(name, 0):
                    d_out, d_in = site.weight.shape
                    initial[number, begin : begin + rank * d_in] = drawn(seed, name, rank, d_in).view(-1)
                    if run.ratio != 1:
                        self.ratios[number, middle : middle + d_out * max(r.ranks.get(name, 0) for r in runs)] = run.ratio
            scales.append([run_alpha / run.ranks[name] if run.ranks.get(name, 0) else 0.0 for _, name, *_ in self.parts])
        self.flat.copy_(initial)
        scale = torch.tensor(scales, device=self.device, dtype=self.half.dtype)
        for column, (site, _, rank, begin, middle) in enumerate(self.parts):
            d_out, d_in = site.weight.shape
            end = middle + rank * d_out
            A, dA = (whole[:, begin:middle].view(runs_count, rank, d_in) for whole in (self.half, self.grad))
            B, dB = (whole[:, middle:end].view(runs_count, d_out, rank) for whole in (self.half, self.grad))
            site.adapters = (A, B, scale[:, column, None, None].contiguous(), dA, dB)
        self._cast()

    def _cast(self) -> None:
        self.half.copy_(self.flat)


def first_number(seed: int) -> int:
    """The number that `apply_plan` draws first after the seed is set."""
    return int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))


def drawn(seed: int, name: str, rank: int, d_in: int) -> Tensor:
    """A new adapter's A, as trainer/layers/draws.py draws it."""
    digest = hashlib.blake2b(repr((seed, name, 0)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    return 1 / math.sqrt(d_in) * (2 * torch.rand((rank, d_in), generator=generator) - 1)


def main(folder: Path, data: Path) -> None:
    """Hold two runs against `plan train`: `many.py MODEL TRAIN.jsonl`."""
    from transformers import AutoModelForCausalLM

    import planner
    from planner import AllocationSettings
    from spectra import open_checkpoint
    from trainer import TrainSettings, train
    from trainer.base_model import load_tokenizer
    from trainer.data.dataset import read_texts
    from trainer.data.tokenize import tokenise

    steps, batch = 8, 4
    checkpoint = open_checkpoint(folder)
    settings = TrainSettings(max_steps=steps, batch_size=batch, learning_rate=2e-3, max_length=256, precision="fp32")
    plans = {
        "rank 2": planner.allocate("rank 2", AllocationSettings(strategy="uniform"), model=checkpoint),
        "random": planner.allocate("100000", AllocationSettings(strategy="random", max_experts=1, min_rank=0), model=checkpoint),
    }
    examples = tokenise(read_texts(data), load_tokenizer(folder), 256, ())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    many = Many(model, [site.name for site in plans["rank 2"].sites], steps, batch)
    runs = [
        Run(name=name, ranks={site.name: sum(site.ranks) for site in plan.sites if site.ranks}, rate=2e-3, seed=3 + number)
        for number, (name, plan) in enumerate(plans.items())
    ]
    rows = Rows.of(examples.rows, "cpu")
    begun = time.monotonic()
    print("at once", many.train(runs, rows), f"{time.monotonic() - begun:.1f} s")
    from tempfile import TemporaryDirectory

    for run, plan in zip(runs, plans.values(), strict=True):
        with TemporaryDirectory() as output:
            report = train(plan, folder, data, Path(output) / "run", settings.model_copy(update={"seed": run.seed}))
        print("plan train", json.dumps([round(point.loss, 6) for point in report.curve[-1:]]), f"{report.seconds:.1f} s")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
