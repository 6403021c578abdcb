"""Small valid inputs of every kind, made once by the product itself; what is damaged is always a copy."""

import csv
import json

import pandas

from tests import models

TEMPLATE = (
    "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<s> assistant{% endif %}"
)
FEW = ["--samples", "8", "--max-length", "16", "--batch-size", "4"]
QUICK = ["--max-steps", "2", "--batch-size", "4", "--max-length", "16"]
DATA = {"bert": "labels.jsonl", "llama": "text.jsonl", "gpt2": "text.jsonl", "olmoe": "text.jsonl"}


def make(folder):
    """Models, data, reports, plans, runs and a study under fixed names."""
    folder.mkdir(parents=True)
    _models(folder)
    _data(folder)
    for name in ("bert", "llama", "olmoe"):
        report = ["--spectra", folder / f"{name}.spectra.json", "--sensitivity", folder / f"{name}.sensitivity.json"]
        plan("analyze", folder / name, "-o", folder / f"{name}.spectra.json", "--csv", folder / f"{name}.csv")
        data = ["--data", folder / DATA[name]]
        plan("probe", folder / name, *data, *FEW, "--trial-steps", 2, "-o", folder / f"{name}.sensitivity.json")
        plan("allocate", *report, "--budget", "rank 2", "--incomplete", "-o", folder / f"{name}.plan.json")
    mixture = ["--strategy", "uniform", "--expert-rank", 2, "--max-experts", 2, "--budget", "2k"]
    plan("allocate", "--model", folder / "llama", *mixture, "-o", folder / "llama.mixture.json")
    grows = ["--strategy", "uniform", "--budget", "rank 4"]
    plan("allocate", "--model", folder / "olmoe", *grows, "-o", folder / "olmoe.grow.json")
    for name, run in RUNS.items():
        plan(
            "train",
            folder / run[0],
            "--model",
            folder / run[1],
            "--data",
            folder / run[2],
            *run[3:],
            *QUICK[2:],
            "-o",
            folder / name,
        )
    plan("evaluate", folder / "bert.run", "--data", folder / "labels.jsonl")
    plan("compare", *compare(folder), "-o", folder / "study")


# Name of a run -> plan, model, data and options.
RUNS = {
    "bert.run": ["bert.plan.json", "bert", "labels.jsonl", "--max-steps", 4],
    "llama.run": ["llama.mixture.json", "llama", "text.jsonl", "--max-steps", 4],
    "llama.stock": ["llama.plan.json", "llama", "text.jsonl", "--max-steps", 4],
    "olmoe.run": ["olmoe.grow.json", "olmoe", "text.jsonl", "--grow", "--max-steps", 24],
}


def compare(folder):
    """The study's command, without its folder."""
    data = ["--data", folder / "labels.jsonl", "--test", folder / "labels.jsonl"]
    return [
        folder / "bert.plan.json",
        "--model",
        folder / "bert",
        *data,
        *QUICK,
        "--max-steps",
        1,
        "--seeds",
        2,
        "--lr-sweep",
        1e-3,
        "--binding",
        "skip",
        "--processes",
        1,
    ]


def plan(*arguments):
    """Run `plan` in this process."""
    import cli

    cli.main.main([str(argument) for argument in arguments], standalone_mode=False)


def _models(folder):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "pad_token_id": 0}
    small = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    models.save_built("bert", folder / "bert", **small)
    models.save_built("llama", folder / "llama", **sizes)
    models.save_built("gpt2", folder / "gpt2", n_embd=16, n_head=2)
    models.save_built("olmoe", folder / "olmoe", **sizes, vocab_size=len(models.SPECIAL + models.WORDS))
    for name in ("llama", "olmoe"):
        (folder / name / "chat_template.jinja").write_text(TEMPLATE)
    models.save_gguf(folder / "llama", folder / "llama.gguf")
    _other_formats(folder)


def _other_formats(folder):
    """The llama in two shards, and as a pickle."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "llama" / "model.safetensors")
    for name in ("sharded", "pickled"):
        shutil.copytree(folder / "llama", folder / name)
        (folder / name / "model.safetensors").unlink()
    names = sorted(state)
    shards = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, held in shards.items():
        save_file({name: state[name] for name in held}, folder / "sharded" / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save(state, folder / "pickled" / "pytorch_model.bin")


def _data(folder):
    texts = [" ".join(models.WORDS[(3 * start + step) % len(models.WORDS)] for step in range(8)) for start in range(24)]
    labelled = [{"text": text, "label": "xyz"[number % 3]} for number, text in enumerate(texts)]
    turns = [[{"role": "user", "content": text[:20]}, {"role": "assistant", "content": text[20:]}] for text in texts]
    rows = {
        "labels": labelled,
        "text": [{"text": text} for text in texts],
        "pairs": [{"prompt": text[:20], "completion": text[20:]} for text in texts],
        "chat": [{"messages": turn} for turn in turns],
        "alpaca": [{"instruction": text[:20], "input": "", "output": text[20:]} for text in texts],
        "choices": [
            {"prompt": text[:20], "choices": ["the file", "a list"], "answer": n % 2} for n, text in enumerate(texts[:6])
        ],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "labels.json").write_text(json.dumps(labelled))
    pandas.DataFrame(labelled).to_parquet(folder / "labels.parquet")
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(labelled)
