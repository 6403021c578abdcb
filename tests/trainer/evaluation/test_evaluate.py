"""What a run can be asked for beyond a plan and a file."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import planner
import spectra
from spectra import InputError
from trainer import RunReport, TrainSettings, evaluate, load_adapters, merge, train
from trainer.run_folder import BEST, WEIGHTS

# Adam turns the rounding of a gradient near zero into a step of the learning rate: equal up to rounding needs a small one.
GENTLE = {"learning_rate": 1e-4}
SHORT = TrainSettings(max_steps=6, batch_size=8, max_length=32, learning_rate=3e-3, precision="fp32")


@pytest.fixture(scope="module")
def llama_plan(tiny_llama):
    return planner.allocate(
        budget="6000", strategy="uniform", model=spectra.open_checkpoint(tiny_llama), expert_rank=1, max_experts=3
    )


def settings(**changes):
    return SHORT.model_copy(update=changes)


def assert_close(one, other, **tolerance):
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


def run(llama_plan, tiny_llama, sentences, folder, **changes):
    options = {key: changes.pop(key) for key in ("evaluation", "weights") if key in changes}
    report = train(llama_plan, tiny_llama, sentences, folder, settings(**changes), **options)
    return folder, report


@pytest.mark.parametrize("change", [{"accumulation": 4}, {"gradient_checkpointing": True}])
def test_splitting_a_step_or_recomputing_changes_nothing(llama_plan, tiny_llama, sentences, tmp_path, change):
    one, _ = run(llama_plan, tiny_llama, sentences, tmp_path / "one", **GENTLE)
    other, _ = run(llama_plan, tiny_llama, sentences, tmp_path / "other", **GENTLE, **change)
    assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_best_adapters_are_kept_and_patience_ends_a_run(llama_plan, tiny_llama, sentences, tmp_path):
    folder, report = run(
        llama_plan, tiny_llama, sentences, tmp_path / "run",
        evaluation=sentences, max_steps=40, evaluations=20, patience=2, learning_rate=10.0, warmup=0.0,
    )  # fmt: skip
    losses = [point.loss for point in report.evaluations]
    assert report.steps < 40
    assert report.best_step == report.evaluations[losses.index(min(losses))].step
    assert len(losses) - 1 - losses.index(min(losses)) == 2
    best = evaluate(folder / BEST, sentences)
    assert best.trained.loss < evaluate(folder, sentences).trained.loss
    assert RunReport.load(folder / "run.json") == report


def test_routing_is_part_of_the_report(llama_plan, tiny_llama, sentences, tmp_path):
    _, report = run(llama_plan, tiny_llama, sentences, tmp_path / "run", router="sira", capacity=0.5)
    assert {site.site for site in report.routes} == {site.name for site in llama_plan.sites if len(site.ranks) > 1}
    assert all(sum(site.shares) == pytest.approx(1) for site in report.routes)
    assert all(1 <= point.effective_support <= 3 for point in report.curve)
    assert all(0 < point.dropped < 1 for point in report.curve)
    assert report.notes == ()
    assert report.tokens_per_second > 0
    assert report.peak_memory > 2**20


def test_a_collapsed_router_is_a_note():
    from trainer.report import RouterHealth
    from trainer.training.loop import collapsed

    health = RouterHealth(site="layers.0.q", shares=(0.01, 0.98, 0.01), entropy=0.1, effective_support=1.1, dropped=0.0)
    (note,) = collapsed((health,))
    assert note.startswith("the router of layers.0.q has collapsed: expert 1 carries 98%; a balance loss")


@pytest.mark.parametrize("router", ["sira", "dense", "constant"])
def test_every_router_trains_and_comes_back(llama_plan, tiny_llama, sentences, tmp_path, router):
    folder, _ = run(llama_plan, tiny_llama, sentences, tmp_path / "run", router=router, dropout=0.1, max_steps=4)
    model = load_adapters(folder)
    assert {mixture.routing for mixture in model.modules() if hasattr(mixture, "routing")} == {router}
    assert evaluate(folder, sentences).to_json() == evaluate(folder, sentences).to_json()


def test_several_files_are_one_mixture(llama_plan, tiny_llama, sentences, tmp_path):
    lines = sentences.read_text().splitlines()
    parts = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    parts[0].write_text("\n".join(lines[:20]))
    parts[1].write_text("\n".join(lines[20:]))
    _, both = run(llama_plan, tiny_llama, parts, tmp_path / "both")
    assert both.examples == len(lines)
    _, drawn = run(llama_plan, tiny_llama, parts, tmp_path / "drawn", weights=[1, 3])
    assert drawn.examples != len(lines)
    result = evaluate(tmp_path / "both", parts)
    assert [task.name for task in result.tasks] == ["a", "b"]
    assert result.examples == len(lines)
    pooled = sum(task.trained.loss * task.examples for task in result.tasks) / len(lines)
    assert result.trained.loss == pytest.approx(pooled)


def test_files_of_different_kinds_are_refused(uniform_plan, minilm, small_corpus, sentences, tmp_path):
    with pytest.raises(InputError, match=r"files of one run must be of one kind: .* is classification, .* is causal"):
        train(uniform_plan, minilm, [small_corpus[0], sentences], tmp_path / "run", SHORT)
    with pytest.raises(InputError, match="batch_size 8 cannot be split into 1 processes x 3 passes"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", settings(accumulation=3))
    assert not (tmp_path / "run").exists()


def test_a_logger_that_is_not_there_is_named(uniform_plan, minilm, small_corpus, tmp_path):
    with pytest.raises(InputError, match="report_to 'wandb': not installed; run: pip install wandb"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", settings(report_to="wandb"))


def choice_loss(model, tokenizer, prompt, choice):
    """Mean loss of the choice's tokens after the prompt, one at a time."""
    before, after = tokenizer(prompt)["input_ids"], tokenizer(" " + choice, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
    return -sum(float(logits[len(before) + at - 1, token]) for at, token in enumerate(after)) / len(after)


def test_language_models_answer_questions_and_generate(llama_plan, tiny_llama, sentences, tmp_path):
    words = sorted({word for line in map(json.loads, sentences.read_text().splitlines()) for word in line["text"].split()})
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{one} {two} ", "completion": f"{one} {one}"} for one in words[:6] for two in words[:6]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, _ = run(llama_plan, tiny_llama, data, tmp_path / "run", max_steps=150, learning_rate=2e-2)
    result = evaluate(folder, data, generate=4)
    assert 0 <= result.untrained.exact_match <= result.trained.exact_match <= 1
    asked = [
        {"prompt": f"{words[0]} {words[1]}", "choices": [words[0], words[5]], "answer": 0},
        {"prompt": f"{words[3]} {words[2]}", "choices": [f"{words[1]} {words[4]}", words[3]], "answer": words[3]},
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(question) + "\n" for question in asked))
    scores = evaluate(folder, questions).trained
    model, tokenizer = load_adapters(folder), transformers.AutoTokenizer.from_pretrained(tiny_llama)
    losses = [[choice_loss(model, tokenizer, question["prompt"], text) for text in question["choices"]] for question in asked]
    assert len({loss for pair in losses for loss in pair}) == 4
    assert scores.accuracy == ((losses[0][0] < losses[0][1]) + (losses[1][1] < losses[1][0])) / 2
    assert scores.loss == pytest.approx((losses[0][0] + losses[1][1]) / 2, rel=1e-5)
    questions.write_text(json.dumps({"prompt": "one", "choices": ["two"], "answer": 0}) + "\n")
    with pytest.raises(InputError, match=r"questions.jsonl: row 1: choices are \['two'\]; give a list of at least two"):
        evaluate(folder, questions)


@pytest.mark.parametrize("kind", ["causal", "classification"])
def test_half_the_memory_for_frozen_weights_changes_little(kind, tiny_llama, sentences, minilm, small_corpus, tmp_path):
    base, data = (tiny_llama, sentences) if kind == "causal" else (minilm, small_corpus[0])
    plan = planner.allocate(budget="rank 2", strategy="uniform", model=spectra.open_checkpoint(base))
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        train(plan, base, data, folder, settings(base_precision=precision))
        model = load_adapters(folder)
        kinds = {name: p.dtype for name, p in model.named_parameters()}
        low = torch.bfloat16 if precision == "bf16" else torch.float32
        assert all(dtype == low for name, dtype in kinds.items() if ".base." in name)
        assert all(dtype == torch.float32 for name, dtype in kinds.items() if name.endswith((".A", ".B", ".router")))
        losses.append(evaluate(folder, data).trained.loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_tensorboard_gets_the_training_curve_and_the_routers_health(uniform_plan, minilm, small_corpus, tmp_path):
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", settings(max_steps=3, report_to="tensorboard"))
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    written = events.read_bytes()
    assert all(name in written for name in (b"train/loss", b"train/learning_rate", b"train/effective_support"))


def test_options_that_cannot_work_are_not_silent(minilm, small_corpus, tmp_path):
    plan = planner.allocate(budget="rank 1", strategy="uniform", model=spectra.open_checkpoint(minilm), max_experts=1)
    with pytest.raises(InputError, match="--patience 2 needs an evaluation file to watch"):
        train(plan, minilm, small_corpus[0], tmp_path / "run", settings(patience=2))
    report = train(plan, minilm, small_corpus[0], tmp_path / "run", settings(max_steps=1, router="sira", balance_loss=0.1))
    assert "the plan has no routers: --router and --balance-loss had no effect" in report.notes
    with pytest.raises(InputError, match="--generate 8 is for language models"):
        evaluate(tmp_path / "run", small_corpus[1], generate=8)


def test_a_run_on_half_precision_weights_can_be_merged(minilm, small_corpus, tmp_path):
    plan = planner.allocate(budget="rank 2", strategy="uniform", model=spectra.open_checkpoint(minilm), max_experts=1)
    train(plan, minilm, small_corpus[0], tmp_path / "run", settings(base_precision="bf16", learning_rate=1e-2))
    alone = transformers.AutoModelForSequenceClassification.from_pretrained(merge(tmp_path / "run", tmp_path / "merged"))
    ids = torch.arange(1000, 1012)[None]
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=ids).logits.float() for model in (load_adapters(tmp_path / "run"), alone))
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
