import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import planner
import spectra
from spectra import InputError
from trainer import REPORT, RunReport, TrainSettings, evaluate, load_adapters, train
from trainer.run_folder import PLAN, WEIGHTS
from trainer.training.train import CHECKPOINTS

SHORT = TrainSettings(max_steps=6, batch_size=8, max_length=32, learning_rate=3e-3, precision="fp32")


@pytest.fixture(scope="module")
def run(minilm, uniform_plan, small_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(uniform_plan, minilm, small_corpus[0], folder, SHORT)
    return folder


@pytest.fixture(scope="module")
def llama_plan(tiny_llama):
    return planner.allocate(
        budget="4000", strategy="uniform", model=spectra.open_checkpoint(tiny_llama), expert_rank=1, max_experts=2
    )


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
    def kill(step, _steps, _loss):
        if step == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "cut", SHORT, progress=kill)
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    steps = []
    watch = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "cut", SHORT, **watch)
    assert steps[0] > 1
    assert_same_adapters(tensors(run), tensors(tmp_path / "cut"))


def test_checkpoints_hold_adapters_only(run):
    (newest, *_) = sorted((run / CHECKPOINTS).glob("checkpoint-*/*.safetensors"))
    assert load_file(newest).keys() == tensors(run).keys()


def test_loading_gives_back_the_trained_model(run, minilm):
    model = load_adapters(run)
    stored = tensors(run)
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert not model.training


def test_evaluation_stands_beside_what_costs_nothing(run, small_corpus):
    seen = []
    result = evaluate(run, small_corpus[1], progress=lambda done, total: seen.append((done, total)))
    assert result.examples == 32
    assert seen[-1] == (64, 64)
    assert result.majority.accuracy == 0.25
    assert result.majority.loss == pytest.approx(math.log(4))
    assert result.untrained.loss == pytest.approx(math.log(4), abs=0.1)
    assert result.trained.loss != result.untrained.loss


def test_head_only_trains_the_head_and_nothing_else(minilm, uniform_plan, small_corpus, tmp_path):
    train(uniform_plan.without_adapters(), minilm, small_corpus[0], tmp_path / "head", SHORT)
    assert sorted(tensors(tmp_path / "head")) == ["classifier.bias", "classifier.weight"]


def test_a_language_model_learns(tiny_llama, llama_plan, sentences, tmp_path):
    settings = TrainSettings(max_steps=40, batch_size=8, learning_rate=3e-2, precision="fp32")
    report = train(llama_plan, tiny_llama, sentences, tmp_path / "run", settings)
    assert report.head_parameters == 0
    result = evaluate(tmp_path / "run", sentences)
    assert math.isnan(result.trained.accuracy)
    assert math.isnan(result.majority.loss)
    assert result.trained.loss < 0.95 * result.untrained.loss
    model = load_adapters(tmp_path / "run")
    generated = model.generate(torch.tensor([[1, 5, 6]]), max_new_tokens=4, do_sample=False)
    assert generated.shape == (1, 7)


def test_a_folder_with_a_run_is_not_overwritten(run, minilm, uniform_plan, small_corpus):
    before = (run / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="already holds a run; add --resume"):
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
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
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


def test_damaged_runs_are_named(run, small_corpus, tmp_path):
    with pytest.raises(InputError, match=r"not a finished run: no loraplan.json"):
        evaluate(tmp_path, small_corpus[1])
    broken = tmp_path / "broken"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns(CHECKPOINTS))
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(InputError, match=r"adapter_model.safetensors: not a readable safetensors file"):
        load_adapters(broken)
    text = (broken / "loraplan.json").read_text()
    (broken / "loraplan.json").write_text(text.replace('"base_model_name_or_path": "', '"base_model_name_or_path": "/moved'))
    with pytest.raises(InputError, match="no such folder; if the base model has moved, say where with --model"):
        load_adapters(broken)
    (broken / "loraplan.json").write_text(text)
    (broken / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"adapter_model.safetensors: not a readable safetensors file"):
        load_adapters(broken)


def test_peft_refuses_a_mixture_instead_of_misreading_it(run):
    import peft

    with pytest.raises((KeyError, ValueError, TypeError)):
        peft.PeftConfig.from_pretrained(str(run))


def test_other_data_is_no_way_to_go_on(run, minilm, uniform_plan, small_corpus, tmp_path):
    changed = tmp_path / "train.jsonl"
    changed.write_text(small_corpus[0].read_text().replace("the ", "THE ", 1))
    with pytest.raises(InputError, match="a run of another plan, model, data or settings"):
        train(uniform_plan, minilm, changed, run, SHORT, resume=True)


@pytest.mark.parametrize("lost", ["optimizer.pt", "rng_state.pth", "trainer_state.json", WEIGHTS])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(lost, run, minilm, uniform_plan, small_corpus, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    newest = max((copy / CHECKPOINTS).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    (newest / lost).write_bytes((newest / lost).read_bytes()[:-3])
    steps = []
    watch = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    train(uniform_plan, minilm, small_corpus[0], copy, SHORT, **watch)
    assert steps[0] > 1
    assert_same_adapters(tensors(run), tensors(copy))


def test_a_run_that_fails_before_its_first_checkpoint_leaves_the_folder_free(minilm, uniform_plan, small_corpus, tmp_path):
    wild = SHORT.model_copy(update={"learning_rate": 1e30, "max_steps": 50})
    with pytest.raises(InputError, match="lower the learning rate"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", wild)
    assert not (tmp_path / "run").exists()


def test_an_encoder_is_no_language_model(minilm, uniform_plan, sentences, tmp_path):
    with pytest.raises(InputError, match="no causal language model: its checkpoint lacks 'cls"):
        train(uniform_plan, minilm, sentences, tmp_path / "run", SHORT)


def test_a_text_with_nothing_to_predict_is_named(tiny_llama, llama_plan, tmp_path):
    (tmp_path / "short.jsonl").write_text('{"text": "the file"}\n{"text": "the"}\n')
    with pytest.raises(InputError, match="row 2: a text of 1 token has nothing to predict"):
        train(llama_plan, tiny_llama, tmp_path / "short.jsonl", tmp_path / "run", SHORT)


def test_texts_beyond_the_models_positions(minilm, uniform_plan, small_corpus, tmp_path):
    long = SHORT.model_copy(update={"max_length": 600})
    with pytest.raises(InputError, match="max_length 600 is more than the 512 positions"):
        train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", long)


@pytest.mark.parametrize("kind", ["classification", "causal"])
def test_decoders_learn_both_tasks(kind, tiny_llama, llama_plan, sentences, small_corpus, tmp_path):
    data = sentences if kind == "causal" else small_corpus[0]
    train(llama_plan, tiny_llama, data, tmp_path / "run", SHORT)
    assert evaluate(tmp_path / "run", data).examples == (32 if kind == "causal" else 48)


def test_gpt2s_conv1d_layers_are_adapted(tiny_gpt2, sentences, tmp_path):
    checkpoint = spectra.open_checkpoint(tiny_gpt2)
    plan = planner.allocate(budget="4000", strategy="uniform", model=checkpoint, expert_rank=1, max_experts=2)
    assert planner.mismatches(plan, checkpoint) == []
    train(plan, tiny_gpt2, sentences, tmp_path / "run", SHORT)
    assert {name.rpartition(".")[2] for name in tensors(tmp_path / "run")} == {"A", "B", "router"}


def test_a_run_is_not_put_on_another_base(run, minilm, small_corpus, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(minilm, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, other / "model.safetensors")
    with pytest.raises(InputError, match="not the base model of this run: same architecture, other weights"):
        evaluate(run, small_corpus[1], base=other)
