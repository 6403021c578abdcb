"""Preparing conversations: a file of chats to token ids with labels, beside datasets.map with the tokenizer's own marks.

    python benchmarks/conversations.py MODEL [--rows 100000] [--turns 3] [--words 95]

The peer is what training libraries do for answers alone: a chat template with `{% generation %}` marks and `apply_chat_template`
with `return_assistant_tokens_mask` for every row in `datasets.map`, in as many processes as there are cores. Each side runs in a
process of its own on the same file, with empty caches; ours a second time, with what it kept. The floor is tokenising the
rendered texts and nothing else. Both have to learn the same tokens, but for the line's end behind an answer, which only the peer
learns.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from sides import measured

MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>\n"
    "{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def write(path: Path, rows: int, turns: int, words: int) -> None:
    """Chats of words of this repository's documents, about as many tokens as words and a third."""
    rng = random.Random(0)
    root = Path(__file__).parents[1]
    known = [
        word
        for page in sorted((root / "docs").rglob("*.md"))
        for word in page.read_text(encoding="utf-8").split()
        if word.isalpha()
    ]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            said = [{"role": "system", "content": "You are a helpful assistant."}]
            for _ in range(turns):
                said += [{"role": role, "content": " ".join(rng.choices(known, k=words // 2))} for role in ("user", "assistant")]
            file.write(json.dumps({"messages": said}) + "\n")


def ours(model: str, file: Path, cache: str) -> dict[str, Any]:
    """What `plan train` does with a file."""
    os.environ["LORAPLAN_CACHE"] = cache
    from spectra import open_checkpoint
    from trainer.base_model import load_tokenizer
    from trainer.data.dataset import read_texts
    from trainer.data.tokenize import tokenise

    tokenizer = load_tokenizer(open_checkpoint(model).location, PLAIN)
    start = time.perf_counter()
    texts = read_texts(file)
    read = time.perf_counter()
    rows = tokenise(texts, tokenizer, 8192).rows
    end = time.perf_counter()
    return {"seconds": end - start, "reading": read - start, **counted(rows)}


def peers(model: str, file: Path, processes: int) -> dict[str, Any]:
    """datasets.map with the tokenizer's own marks."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = _tokenizer(model)
    tokenizer.chat_template = MARKED
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=folder)

        def encode(row: dict[str, Any]) -> dict[str, Any]:
            found = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
            labels = [token if mask else -100 for token, mask in zip(found["input_ids"], found["assistant_masks"], strict=True)]
            return {"input_ids": found["input_ids"], "labels": labels}

        made = rows.map(encode, remove_columns=rows.column_names, num_proc=processes if processes > 1 else None)
        end = time.perf_counter()
        return {"seconds": end - start, "transformers": transformers.__version__, **counted(made)}


def floor(model: str, file: Path) -> dict[str, Any]:
    """Tokenising the rendered texts, and nothing else."""
    tokenizer = _tokenizer(model)
    tokenizer.chat_template = PLAIN
    with file.open(encoding="utf-8") as lines:
        texts = [tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False) for line in lines]
    start = time.perf_counter()
    for at in range(0, len(texts), 1000):
        tokenizer.backend_tokenizer.encode_batch_fast(texts[at : at + 1000], add_special_tokens=False)
    return {"seconds": time.perf_counter() - start}


def _tokenizer(model: str) -> Any:
    from spectra import open_checkpoint
    from trainer.base_model import load_tokenizer

    return load_tokenizer(open_checkpoint(model).location)


def counted(rows: Any) -> dict[str, Any]:
    """Tokens, and those that are learned."""
    tokens = learned = 0
    for batch in rows.iter(1000):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            tokens += len(ids)
            learned += sum(label != -100 for label in labels)
    return {"tokens": tokens, "learned": learned}


def main() -> None:
    """Time every side in turn, each in a process of its own, and print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--words", type=int, default=125, help="of a question and its answer")
    parser.add_argument("--only", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if options.only:
        side, folder = options.only[0], Path(options.only[1])
        file, cache = folder / "chats.jsonl", str(folder / "cache")
        found = {
            "floor": lambda: floor(options.model, file),
            "ours": lambda: ours(options.model, file, cache),
            "again": lambda: ours(options.model, file, cache),
            "peer": lambda: peers(options.model, file, cores),
        }[side]()
        print(json.dumps(found | {"MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}))
        return
    with tempfile.TemporaryDirectory() as made:
        write(Path(made) / "chats.jsonl", options.rows, options.turns, options.words)
        given = [options.model, "--rows", str(options.rows), "--turns", str(options.turns)]
        found = {side: measured(__file__, given, side, made) for side in ("floor", "ours", "again", "peer")}
    us, peer = found["ours"], found["peer"]
    # Behind every answer the peer learns a line's end, and nothing else that ours does not.
    if us["learned"] != peer["learned"] - options.rows * options.turns:
        raise SystemExit(f"the sides learn other tokens: {us['learned']} and {peer['learned']}")
    print(f"{us['tokens'] / options.rows:.0f} tokens per conversation, {options.rows:,} conversations, {cores} cores")
    of_peer, of_floor = us["seconds"] / peer["seconds"], us["seconds"] / found["floor"]["seconds"]
    print(f"ours takes {of_peer:.3f} of the peer's time, {of_floor:.2f} of the floor's")


if __name__ == "__main__":
    main()
