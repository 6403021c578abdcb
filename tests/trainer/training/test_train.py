"""Runs: what they leave, that they repeat and resume to the bit, and what is refused before anything is written."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

import planner
from spectra import InputError, open_checkpoint
from tests import models
from tests.trainer.examples import SHORT as QUICK
from tests.trainer.examples import kill_at, newest_checkpoint, uniform, write_rows
from trainer import RunReport, TrainSettings, evaluate, load_adapters, train
from trainer.layers.mixture import mixtures
from trainer.limits import DivergedError
from trainer.run_folder import BEST, CHECKPOINTS, PLAN, REPORT, WEIGHTS

pytestmark = pytest.mark.training

SHORT = QUICK.model_copy(update={"learning_rate": 3e-3})
# Adam turns the rounding of a gradient near zero into a step of the learning rate: equal up to rounding needs a small one.
GENTLE = {"learning_rate": 1e-4}


@pytest.fixture(scope="module")
def pair_plan(tiny_llama):
    return uniform(tiny_llama, "4000", expert_rank=1, max_experts=2)


def tensors(folder):
    return load_file(folder / WEIGHTS)


def assert_same_adapters(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_saves_adapters_plan_and_report(run, uniform_plan):
    stored = tensors(run)
    adapters = {name: tensor for name, tensor in stored.items() if not name.startswith("classifier")}
    assert sum(tensor.numel() for tensor in adapters.values()) == uniform_plan.parameters
    assert {name.rpartition(".")[2] for name in adapters} == {"A", "B", "router"}
    assert planner.Plan.load(run / PLAN).to_json() == uniform_plan.to_json()
    report = RunReport.load(run / REPORT)
    assert (report.steps, report.examples, report.adapter_parameters) == (6, 48, uniform_plan.parameters)
    assert report.head_parameters == 384 * 4 + 4
    assert [point.step for point in report.curve] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(point.loss) for point in report.curve)


def test_training_moves_every_expert(run):
    for name, tensor in tensors(run).items():
        if name.endswith(".B"):
            assert tensor.abs().amax() > 0, name


def test_the_same_seed_gives_the_same_bits(run, minilm, uniform_plan, small_corpus, tmp_path):
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "again", SHORT)
    assert_same_adapters(tensors(run), tensors(tmp_path / "again"))


def test_an_interrupted_run_goes_on_to_the_same_bits(run, minilm, uniform_plan, small_corpus, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "cut", SHORT, progress=kill_at(5))
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    steps = []
    watch = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "cut", SHORT, **watch)
    assert steps[0] > 1
    assert_same_adapters(tensors(run), tensors(tmp_path / "cut"))


def test_batches_by_length_are_the_same_after_an_interruption(minilm, uniform_plan, small_corpus, tmp_path):
    settings = SHORT.model_copy(update={"group_by_length": True})
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "whole", settings)
    with pytest.raises(RuntimeError, match="killed"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "cut", settings, progress=kill_at(5))
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "cut", settings, resume=True)
    assert_same_adapters(tensors(tmp_path / "whole"), tensors(tmp_path / "cut"))


def test_head_only_trains_the_head_and_nothing_else(minilm, uniform_plan, small_corpus, tmp_path):
    train(uniform_plan.without_adapters(), minilm, small_corpus[0], tmp_path / "head", SHORT)
    assert sorted(tensors(tmp_path / "head")) == ["classifier.bias", "classifier.weight"]


def test_a_language_model_learns(tiny_llama, pair_plan, sentences, tmp_path):
    settings = TrainSettings(max_steps=40, batch_size=8, learning_rate=3e-2, precision="fp32")
    report = train(pair_plan, tiny_llama, sentences, tmp_path / "run", settings)
    assert report.head_parameters == 0
    result = evaluate(tmp_path / "run", sentences)
    assert result.trained.keys() == {"perplexity", "loss"}
    assert result.majority == {}
    assert result.trained["loss"] < 0.95 * result.untrained["loss"]
    model = load_adapters(tmp_path / "run")
    generated = model.generate(torch.tensor([[1, 5, 6]]), max_new_tokens=4, do_sample=False)
    assert generated.shape == (1, 7)


def test_a_folder_with_a_run_is_not_overwritten(run, minilm, uniform_plan, small_corpus):
    before = (run / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="already holds a run; add `resume` to go on with it"):
        train(uniform_plan, minilm, small_corpus[0], run, SHORT)
    other = SHORT.model_copy(update={"seed": 1})
    with pytest.raises(InputError, match="a run of another plan, model, data or settings"):
        train(uniform_plan, minilm, small_corpus[0], run, other, resume=True)
    assert (run / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "label": "a"}], "only one label, 'a'"),
        ([{"text": "x"}], "cannot be loaded for causal|nothing to train"),
    ],
)
def test_data_that_cannot_be_trained_on(minilm, uniform_plan, tmp_path, rows, message):
    data = write_rows(tmp_path / "d.jsonl", rows)
    with pytest.raises(InputError, match=message):
        train(uniform_plan.without_adapters(), minilm, data, tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()


def test_a_plan_for_another_model_writes_nothing(tiny_llama, uniform_plan, small_corpus, tmp_path):
    with pytest.raises(InputError, match="plan was made for another model"):
        train(uniform_plan, tiny_llama, small_corpus[0], tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops_with_the_step(minilm, uniform_plan, small_corpus, tmp_path):
    wild = SHORT.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(InputError, match=r"loss is (nan|inf) at step \d+; lower the learning rate"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", wild)


def test_other_data_is_no_way_to_go_on(run, minilm, uniform_plan, small_corpus, tmp_path):
    changed = tmp_path / "train.jsonl"
    changed.write_text(small_corpus[0].read_text().replace("the ", "THE ", 1))
    with pytest.raises(InputError, match="a run of another plan, model, data or settings"):
        train(uniform_plan, minilm, changed, run, SHORT, resume=True)


@pytest.mark.parametrize("lost", ["optimizer.pt", "rng_state.pth", "trainer_state.json", WEIGHTS])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(lost, run, minilm, uniform_plan, small_corpus, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    newest = newest_checkpoint(copy)
    (newest / lost).write_bytes((newest / lost).read_bytes()[:-3])
    (copy / REPORT).unlink()  # or the run would count as finished
    steps = []
    watch = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    train(uniform_plan, minilm, small_corpus[0], copy, SHORT, **watch)
    assert steps[0] > 1
    assert_same_adapters(tensors(run), tensors(copy))


def test_a_finished_run_has_nothing_to_go_on_with(run, minilm, uniform_plan, small_corpus, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    steps = []
    watch = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    assert train(uniform_plan, minilm, small_corpus[0], copy, SHORT, **watch).to_json() == RunReport.load(run / REPORT).to_json()
    assert steps == []
    assert_same_adapters(tensors(run), tensors(copy))


def test_a_run_that_was_cut_after_its_last_step_is_only_saved_and_reported(run, minilm, uniform_plan, small_corpus, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / REPORT).unlink()
    (copy / WEIGHTS).unlink()
    steps = []
    watch = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    report = train(uniform_plan, minilm, small_corpus[0], copy, SHORT, **watch)
    assert steps == []
    assert_same_adapters(tensors(run), tensors(copy))
    whole = RunReport.load(run / REPORT)
    assert (report.steps, report.curve, report.evaluations) == (whole.steps, whole.curve, whole.evaluations)
    assert math.isnan(report.seconds)  # its first part is not timed


def test_a_run_that_fails_before_its_first_checkpoint_leaves_the_folder_free(minilm, uniform_plan, small_corpus, tmp_path):
    wild = SHORT.model_copy(update={"learning_rate": 1e30, "max_steps": 50})
    with pytest.raises(InputError, match="lower the learning rate"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", wild)
    assert not (tmp_path / "run").exists()


def test_an_encoder_is_no_language_model(minilm, uniform_plan, sentences, tmp_path):
    with pytest.raises(InputError, match="no causal language model: its checkpoint lacks 'cls"):
        train(uniform_plan, minilm, sentences, tmp_path / "run", SHORT)


def test_a_text_with_nothing_to_predict_is_named(tiny_llama, pair_plan, tmp_path):
    write_rows(tmp_path / "short.jsonl", [{"text": "the file"}, {"text": "the"}])
    with pytest.raises(InputError, match="row 2: a text of 1 token has nothing to predict"):
        train(pair_plan, tiny_llama, tmp_path / "short.jsonl", tmp_path / "run", SHORT)


def test_texts_beyond_the_models_positions(minilm, uniform_plan, small_corpus, tmp_path):
    long = SHORT.model_copy(update={"max_length": 600})
    with pytest.raises(InputError, match=r"`max_length` 600 is more than the 512 positions"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", long)


@pytest.mark.parametrize("task", ["classification", "causal"])
def test_decoders_learn_both_tasks(task, tiny_llama, pair_plan, sentences, small_corpus, tmp_path):
    data = sentences if task == "causal" else small_corpus[0]
    train(pair_plan, tiny_llama, data, tmp_path / "run", SHORT)
    assert evaluate(tmp_path / "run", data).examples == (32 if task == "causal" else 48)


def test_gpt2s_conv1d_layers_are_adapted(tiny_gpt2, sentences, tmp_path):
    plan = uniform(tiny_gpt2, "4000", expert_rank=1, max_experts=2)
    assert planner.mismatches(plan, open_checkpoint(tiny_gpt2)) == []
    train(plan, tiny_gpt2, sentences, tmp_path / "run", SHORT)
    assert {name.rpartition(".")[2] for name in tensors(tmp_path / "run")} == {"A", "B", "router"}


def test_checkpoints_hold_adapters_only(run):
    (newest, *_) = sorted((run / CHECKPOINTS).glob("checkpoint-*/*.safetensors"))
    assert load_file(newest).keys() == tensors(run).keys()


def settings(**changes):
    return TrainSettings.model_validate(SHORT.model_dump() | changes)


def assert_close(one, other, **tolerance):
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


def run_on(llama_plan, tiny_llama, sentences, folder, **changes):
    options = {key: changes.pop(key) for key in ("evaluation", "weights") if key in changes}
    report = train(llama_plan, tiny_llama, sentences, folder, settings(**changes), **options)
    return folder, report


@pytest.mark.parametrize("change", [{"accumulation": 4}, {"gradient_checkpointing": True}])
def test_splitting_a_step_or_recomputing_changes_nothing(llama_plan, tiny_llama, sentences, tmp_path, change):
    one, _ = run_on(llama_plan, tiny_llama, sentences, tmp_path / "one", **GENTLE)
    other, _ = run_on(llama_plan, tiny_llama, sentences, tmp_path / "other", **GENTLE, **change)
    assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_best_adapters_are_kept_and_patience_ends_a_run(llama_plan, tiny_llama, sentences, tmp_path):
    folder, report = run_on(
        llama_plan, tiny_llama, sentences, tmp_path / "run",
        evaluation=sentences, max_steps=40, evaluations=20, patience=2, learning_rate=10.0, warmup=0.0,
    )  # fmt: skip
    losses = [point.loss for point in report.evaluations]
    assert report.steps < 40
    assert report.best_step == report.evaluations[losses.index(min(losses))].step
    assert len(losses) - 1 - losses.index(min(losses)) == 2
    best = evaluate(folder / BEST, sentences)
    assert best.trained["loss"] < evaluate(folder, sentences).trained["loss"]
    assert RunReport.load(folder / REPORT) == report


def test_routing_is_part_of_the_report(llama_plan, tiny_llama, tmp_path):
    texts = models.sentences(tmp_path / "six.jsonl", words=6)  # two words give queries and keys no gradient but rounding
    _, report = run_on(llama_plan, tiny_llama, texts, tmp_path / "run", router={"name": "sira", "settings": {"capacity": 0.5}})
    assert {site.site for site in report.routers} == {site.name for site in llama_plan.sites if len(site.ranks) > 1}
    assert all(sum(site.shares) == pytest.approx(1) for site in report.routers)
    assert all(1 <= point.effective_support <= 3 for point in report.curve)
    assert all(0 < point.dropped < 1 for point in report.curve)
    (note,) = report.notes
    assert "of picks, and" in note  # so tight a limit is told
    assert all(site.learned_shares and site.unserved > 0 for site in report.routers)
    assert report.idle == ()
    assert report.tokens_per_second > 0
    assert report.peak_memory > 2**20


@pytest.mark.parametrize("router", ["sira", "dense", "constant"])
def test_every_router_trains_and_comes_back(llama_plan, tiny_llama, sentences, tmp_path, router):
    folder, _ = run_on(llama_plan, tiny_llama, sentences, tmp_path / "run", router=router, dropout=0.1, max_steps=4)
    model = load_adapters(folder)
    assert {mixture.settings.router.name for mixture in mixtures(model).values()} == {router}
    assert evaluate(folder, sentences).to_json() == evaluate(folder, sentences).to_json()


def test_several_files_are_one_mixture(llama_plan, tiny_llama, sentences, tmp_path):
    lines = sentences.read_text().splitlines()
    parts = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    parts[0].write_text("\n".join(lines[:20]))
    parts[1].write_text("\n".join(lines[20:]))
    _, both = run_on(llama_plan, tiny_llama, parts, tmp_path / "both")
    assert both.examples == len(lines)
    _, drawn = run_on(llama_plan, tiny_llama, parts, tmp_path / "drawn", weights=[1, 3])
    assert drawn.examples != len(lines)
    result = evaluate(tmp_path / "both", parts)
    assert [task.name for task in result.tasks] == ["a", "b"]
    assert result.examples == len(lines)
    pooled = sum(task.trained["loss"] * task.examples for task in result.tasks) / len(lines)
    assert result.trained["loss"] == pytest.approx(pooled)


def test_files_of_different_tasks_are_refused(uniform_plan, minilm, small_corpus, sentences, tmp_path):
    with pytest.raises(InputError, match=r"files of one run must be of one task: .* is classification, .* is causal"):
        train(uniform_plan, minilm, [small_corpus[0], sentences], tmp_path / "run", SHORT)
    with pytest.raises(InputError, match=r"`batch_size` 8 cannot be split into 1 processes x 3 passes"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", settings(accumulation=3))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["causal", "classification"])
def test_half_the_memory_for_frozen_weights_changes_little(task, tiny_llama, sentences, minilm, small_corpus, tmp_path):
    base, data = (tiny_llama, sentences) if task == "causal" else (minilm, small_corpus[0])
    plan = uniform(base, "rank 2")
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        train(plan, base, data, folder, settings(precision=precision))
        model = load_adapters(folder, precision=precision)
        dtypes = {name: p.dtype for name, p in model.named_parameters()}
        low = torch.bfloat16 if precision == "bf16" else torch.float32
        assert all(dtype == low for name, dtype in dtypes.items() if ".base." in name)
        assert all(dtype == torch.float32 for name, dtype in dtypes.items() if name.endswith((".A", ".B", ".router")))
        losses.append(evaluate(folder, data, precision=precision).trained["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_tensorboard_gets_the_training_curve_and_the_routers_health(uniform_plan, minilm, small_corpus, tmp_path):
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", settings(max_steps=3, report_to="tensorboard"))
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    written = events.read_bytes()
    assert all(name in written for name in (b"train/loss", b"train/learning_rate", b"train/effective_support"))


def test_options_that_cannot_work_are_not_silent(minilm, small_corpus, tmp_path):
    plan = uniform(minilm, "rank 1", max_experts=1)
    with pytest.raises(InputError, match="`patience` 2 needs an evaluation file to watch"):
        train(plan, minilm, small_corpus[0], tmp_path / "run", settings(patience=2))
    with pytest.raises(InputError, match="`router` has no effect on a plan without routers: no module has several LoRA experts"):
        train(plan, minilm, small_corpus[0], tmp_path / "run", settings(max_steps=1, router="sira", balance_loss=0.1))
    assert not (tmp_path / "run").exists()


HINTS = planner.plan.TrainingHints(learning_rate=5e-3, alpha=2.0, found="a search")


def test_a_plans_hints_are_used_and_said(llama_plan, tiny_llama, sentences, tmp_path, caplog):
    plan = llama_plan.model_copy(update={"training": HINTS})
    with caplog.at_level("INFO", logger="loraplan"):
        report = train(plan, tiny_llama, sentences, tmp_path / "run", TrainSettings(max_steps=2, batch_size=8))
    assert (report.settings.learning_rate, report.settings.alpha) == (5e-3, 2.0)
    assert "learning rate 0.005, alpha 2.0: as the plan says (a search)" in caplog.text


def test_what_is_chosen_goes_before_a_plans_hints(llama_plan, tiny_llama, sentences, tmp_path, caplog):
    plan = llama_plan.model_copy(update={"training": HINTS})
    chosen = TrainSettings(max_steps=2, batch_size=8, learning_rate=1e-3, alpha=4.0)
    with caplog.at_level("INFO", logger="loraplan"):
        report = train(plan, tiny_llama, sentences, tmp_path / "run", chosen)
    assert (report.settings.learning_rate, report.settings.alpha) == (1e-3, 4.0)
    assert "as the plan says" not in caplog.text


def test_a_rate_is_found_used_reported_and_handed_on_with_the_plan(llama_plan, tiny_llama, sentences, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.training.rate.LEAST", 1)
    settings = TrainSettings(max_steps=2, batch_size=8, learning_rate="auto", lr_ratio=2.0)
    seen = []
    report = train(llama_plan, tiny_llama, sentences, tmp_path / "run", settings, progress=lambda *told: seen.append(told[2:]))
    search = report.rate_search
    assert [trial.steps for trial in search.tried] == [1] * 5 + [2] * 2
    best = min((trial for trial in search.tried if trial.steps == 2), key=lambda trial: trial.loss)
    assert report.settings.learning_rate == search.learning_rate == best.learning_rate
    assert search.seconds > 0
    assert ("trying learning rate 0.001 for 1 steps",) in seen
    hints = planner.Plan.load(tmp_path / "run" / PLAN).training
    assert (hints.learning_rate, hints.lr_ratio) == (search.learning_rate, 2.0)
    assert hints.found == "successive halving, 9 steps in all"
    # A finished run needs no other search to be taken up again.
    again = train(llama_plan, tiny_llama, sentences, tmp_path / "run", settings, resume=True)
    assert again.rate_search == search


def test_several_processes_cannot_search_for_a_rate(llama_plan, tiny_llama, sentences, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="`learning_rate` auto is searched for by one process"):
        train(llama_plan, tiny_llama, sentences, tmp_path / "run", TrainSettings(learning_rate="auto"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_weights_that_stop_being_finite_at_the_last_step_leave_nothing(tiny_llama, llama_plan, sentences, tmp_path, rate):
    """No loss sees the last update."""
    settings = SHORT.model_copy(update={"max_steps": 1, "warmup": 0.0, "learning_rate": rate})
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(llama_plan, tiny_llama, sentences, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()
