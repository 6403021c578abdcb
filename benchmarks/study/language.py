"""Two small language models and the texts to pretrain and fine-tune them on, all from what is installed with us.

    python benchmarks/study/language.py -o language/

Pretraining sees the standard library's code, torch's Python and C++ and packages' descriptions. Fine-tuning is on kinds of
text that pretraining never saw: rules are chosen on DEVELOPMENT and reported on HELD_OUT, and what HELD_OUT taught is
reported on CONFIRMATION. A file's texts stand either in
training or in test, and no text in both. The architectures are OLMoE's in miniature, 32 experts per layer of which a token
uses 4, and Llama's.
"""

import hashlib
import json
import random
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import transformers
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

STDLIB, PACKAGES = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
PRETRAINING: Mapping[str, tuple[Path, str, int]] = {  # folder, pattern, characters at most
    "library": (STDLIB, "[a-z]*/*.py", 6_000_000),
    "modules": (STDLIB, "*.py", 6_000_000),
    "torch": (PACKAGES / "torch", "**/*.py", 10_000_000),
    "headers": (PACKAGES / "torch" / "include", "**/*.h", 6_000_000),
    "models": (PACKAGES / "transformers", "**/*.py", 4_000_000),
    "descriptions": (PACKAGES, "*.dist-info/METADATA", 4_000_000),
}
DOMAINS: Mapping[str, tuple[Path, str]] = {
    "stubs": (PACKAGES, "**/*.pyi"),
    "mathematics": (PACKAGES / "sympy", "**/*.py"),
    "tables": (STDLIB / "encodings", "*.py"),
    "cython": (PACKAGES, "**/*.p[yx][xd]"),
    "arrow": (PACKAGES / "pyarrow" / "include", "**/*.h"),
    "licences": (PACKAGES, "*.dist-info/**/[LN][IO][CT]*"),
    "graphs": (PACKAGES / "networkx", "**/*.py"),
    "translations": (PACKAGES, "**/*.po"),
    "scripts": (PACKAGES, "**/*.js"),
    "fonts": (PACKAGES, "**/*.afm"),
    "sources": (PACKAGES, "**/*.c"),
    "records": (PACKAGES, "**/*.csv"),
    "frames": (PACKAGES / "pandas", "**/*.py"),
}
DEVELOPMENT, HELD_OUT = ("stubs", "mathematics"), ("tables", "cython", "arrow", "licences", "graphs")
CONFIRMATION = ("translations", "scripts", "fonts", "sources", "records", "frames")
EXCLUDED = {"site-packages", "encodings", "idlelib", "lib2to3", "turtledemo", "pydoc_data"}
PIECE, TRAIN, TEST, TEST_SHARE = 400, 3000, 300, 3  # characters of a text, texts, and test's share of 10 files
VOCABULARY, LENGTH, BATCH = 4096, 256, 16
SHARED = {
    "vocab_size": VOCABULARY, "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": 0, "pad_token_id": 1,
    "bos_token_id": None,
}  # fmt: skip
EXPERTS = {
    "hidden_size": 256, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_experts": 32, "num_experts_per_tok": 4, "router_aux_loss_coef": 0.01, "output_router_logits": True,
}  # fmt: skip
DENSE = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2,
}  # fmt: skip
ARCHITECTURES: Mapping[str, transformers.PretrainedConfig] = {
    "language": transformers.OlmoeConfig(**SHARED | EXPERTS),
    "dense": transformers.LlamaConfig(**SHARED | DENSE),
}


def files(root: Path, pattern: str) -> list[tuple[str, str]]:
    """(path, text) of the readable files of a kind, in an order that does not depend on the disk's."""
    found = []
    for path in sorted(root.glob(pattern)):
        inside = path.relative_to(root)
        outside_ours = root == STDLIB and EXCLUDED & set(inside.parts)
        if path.is_file() and not outside_ours and path.stat().st_size < 300_000:
            try:
                found.append((str(inside), path.read_text()))
            except (UnicodeDecodeError, OSError):
                continue
    random.Random(0).shuffle(found)
    return found


def pieces(text: str) -> Iterator[str]:
    """Runs of whole lines of about PIECE characters."""
    held = ""
    for line in text.splitlines(keepends=True):
        held += line[:PIECE]
        if len(held) >= PIECE:
            yield held
            held = ""


def write(output: Path, domain: str) -> tuple[Path, Path]:
    """Training and test files of a domain, made once."""
    paths = output / "train" / f"{domain}.jsonl", output / "test" / f"{domain}.jsonl"
    if not all(path.exists() for path in paths):
        seen: set[str] = set()
        split: tuple[list[str], list[str]] = ([], [])
        for name, text in files(*DOMAINS[domain]):
            test = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 < TEST_SHARE
            fresh = [piece for piece in pieces(text) if piece not in seen][:60]
            seen.update(fresh)
            split[test].extend(fresh)
        for path, texts, most in zip(paths, split, (TRAIN, TEST), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            random.Random(0).shuffle(texts)
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:most]))
    return paths


def corpus() -> list[str]:
    """Everything that pretraining reads."""
    found = []
    for root, pattern, most in PRETRAINING.values():
        size = 0
        for _, text in files(root, pattern):
            if size < most:
                found.append(text[:40_000])
                size += len(found[-1])
    return found


def tokenizer_of(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<end>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts[::4], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def has_bf16(device: str) -> bool:
    """Whether bf16 products are the faster ones."""
    capabilities: Mapping[str, object] = torch.cpu.get_capabilities()
    return device == "cuda" or any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))


def pretrain(folder: Path, config: transformers.PretrainedConfig, steps: int) -> None:
    """Train the language model from scratch and save it; rows are cut from one stream of all texts."""
    torch.manual_seed(0)
    texts = corpus()
    random.Random(0).shuffle(texts)
    tokenizer = tokenizer_of(texts)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    stream = np.concatenate([np.array([*ids, 0], dtype=np.int32) for ids in encoded])
    rows = torch.from_numpy(stream[: len(stream) // LENGTH * LENGTH].reshape(-1, LENGTH)).long()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = rows[torch.randperm(len(rows))].to(device)
    print(f"{len(texts):,} files, {rows.numel():,} tokens; {steps} steps read {steps * BATCH * LENGTH:,}", flush=True)
    model = transformers.AutoModelForCausalLM.from_config(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    shown = max(1, steps // 50)
    for step in track(range(steps), "Pretraining"):
        at = torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)
        with torch.autocast(device, torch.bfloat16, enabled=has_bf16(device)):
            loss = model(input_ids=rows[at], labels=rows[at]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % shown == 0:
            print(f"step {step}: {loss.item():.3f}", flush=True)
    if hasattr(config, "router_aux_loss_coef"):  # fine-tuning leaves the routers as they are
        model.config.router_aux_loss_coef = 0.0
        model.config.output_router_logits = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model(output: Path, name: str = "language", steps: int = 1300) -> Path:
    """A pretrained model's folder, made once."""
    if not (output / name / "config.json").exists():
        pretrain(output / name, ARCHITECTURES[name], steps)
    return output / name


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="language")
@click.option("--model", "name", type=click.Choice(list(ARCHITECTURES)), default="language")
@click.option("--steps", type=int, default=1300)
def main(output: Path, name: str, steps: int) -> None:
    """Write all domains, and pretrain a model unless it is there."""
    for domain in DOMAINS:
        train, test = write(output / "tasks", domain)
        print(domain, *(sum(1 for _ in path.open()) for path in (train, test)))
    model(output, name, steps)


if __name__ == "__main__":
    main()
