"""Multiple-choice questions, beside lm-evaluation-harness (`pip install lm-eval`) on the same model, file and machine.

    python benchmarks/questions.py MODEL QUESTIONS [--rounds 3] [--device cpu]

QUESTIONS has the fields `prompt`, `choices` and `answer` (BIG-bench's fact_checker/fever, 800 questions of two choices). Each
side runs in a process of its own, in turn. Timed are loading the model and answering, and answering alone; the peer at the best
of three batch sizes. In single precision every answer has to be the same, by likelihood and by likelihood per character.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from sides import measured, shown

BATCHES = (1, 16, 64)


def ours(model: str, questions: Path, precision: str, device: str) -> dict[str, Any]:
    """What `plan evaluate` does for one model."""
    import trainer.base_model as base_model
    from spectra import open_checkpoint
    from trainer.data.dataset import read_texts
    from trainer.evaluation.multiple_choice import picks_of, questions_of

    start = time.perf_counter()
    checkpoint = open_checkpoint(model)
    tokenizer = base_model.load_tokenizer(checkpoint.location)
    exact = "bf16" if precision == "bf16" else "fp32"
    loaded = base_model.load_model(checkpoint, "causal", (), 0, tokenizer.pad_token_id, exact).to(device).eval()
    asking = time.perf_counter()
    asked = questions_of(read_texts(questions, evaluation=True), tokenizer, 2048)
    answers = picks_of(loaded, asked, tokenizer, lambda _done: None)
    end = time.perf_counter()
    picks = [[pick for pick, _ in found] for found in (answers.picks, answers.normalised)]
    return {"whole": end - start, "answering": end - asking, "picks": picks}


def peers(model: str, questions: Path, precision: str, device: str, batch: int) -> dict[str, Any]:
    """lm-evaluation-harness on a task made of the file."""
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    task = ConfigurableTask(
        config={
            "task": "questions",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(questions)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    )
    start = time.perf_counter()
    dtype = "bfloat16" if precision == "bf16" else "float32"
    loaded = HFLM(pretrained=model, dtype=dtype, batch_size=batch, device=device)
    asking = time.perf_counter()
    found = simple_evaluate(model=loaded, tasks=[task], log_samples=True, bootstrap_iters=0, verbosity="ERROR")
    end = time.perf_counter()
    samples = sorted(found["samples"]["questions"], key=lambda sample: sample["doc_id"])
    likelihoods = [[likelihood for likelihood, _ in sample["filtered_resps"]] for sample in samples]
    lengths = [[len(choice) for choice in sample["doc"]["choices"]] for sample in samples]
    scaled = [[one / size for one, size in zip(row, sizes, strict=True)] for row, sizes in zip(likelihoods, lengths, strict=True)]
    picks = [[row.index(max(row)) for row in rows] for rows in (likelihoods, scaled)]
    return {"whole": end - start, "answering": end - asking, "picks": picks}


def differing(one: dict[str, Any], peer: dict[str, Any]) -> str:
    """How many answers are not the same, by likelihood and by likelihood per character."""
    counts = [sum(a != b for a, b in zip(*picks, strict=True)) for picks in zip(one["picks"], peer["picks"], strict=True)]
    return f"{counts[0]} answers differ by acc and {counts[1]} by acc_norm, of {len(one['picks'][0])}"


def main() -> None:
    """Alternate the sides, print ratios and differing answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    measure = partial(measured, __file__, [options.model, str(options.questions), "--device", options.device])
    if options.only:
        from trainer.quiet import quiet_libraries

        quiet_libraries()
        side, precision, *batch = options.only
        given = (options.model, options.questions, precision, options.device)
        print(json.dumps(ours(*given) if side == "ours" else peers(*given, batch=int(batch[0]))))
        return
    first: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for precision in ("fp32", "bf16"):
        tried = {batch: measure("peer", precision, str(batch)) for batch in BATCHES}
        best = min(tried, key=lambda batch: tried[batch]["whole"])
        pairs = [(measure("ours", precision), tried[best])]
        for _ in range(options.rounds - 1):
            pairs.append((measure("ours", precision), measure("peer", precision, str(best))))
        for part in ("whole", "answering"):
            print(f"{precision}, {part}: {shown([peer[part] / one[part] for one, peer in pairs])} times as fast as the peer")
        print(f"{precision}: {differing(*pairs[0])}")
        first[precision] = pairs[0]
    one, peer = first["bf16"][0], first["fp32"][1]
    print(f"ours in bf16 beside the peer in single precision: {peer['whole'] / one['whole']:.2f} times, {differing(one, peer)}")


if __name__ == "__main__":
    main()
