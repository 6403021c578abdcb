"""One batch is one update, however it is split: over passes and processes, with labels spread unevenly, in an epoch's short end.

What is compared are the losses that a run logs and the gradients of each of its steps: Adam hides a factor in a gradient.
"""

import json

import pytest
import torch

from tests import models
from tests.trainer.examples import SHORT, uniform, write_rows
from tests.trainer.training.test_several_processes import in_two
from tests.trainer.training.together import gradients

pytestmark = pytest.mark.training

# 13 examples in batches of 8: the second step of an epoch has five, which two processes and four passes share unevenly.
SETTINGS = SHORT.model_copy(update={"max_steps": 4, "learning_rate": 1e-4, "dropout": 0.0})


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Model, plan and file of a language model and of a classifier."""
    folder = tmp_path_factory.mktemp("kinds")
    given = {}
    for name, family, sizes in (
        ("causal", "llama", {}),
        ("classifier", "bert", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}),
    ):
        model = models.save_built(family, folder / family, **sizes)
        uniform(model, "rank 2").save(folder / f"{family}.json")
        given[name] = folder / f"{family}.json", model, folder / f"{name}.jsonl"
    words = models.WORDS
    answers = [" ".join(words[number : number + 1 + number % 6]) for number in range(13)]
    write_rows(given["causal"][2], [{"prompt": "read the ", "completion": answer} for answer in answers])
    write_rows(given["classifier"][2], [{"text": a, "label": "xyz"[n % 3]} for n, a in enumerate(answers)])
    return given


def assert_same(one, other):
    assert one["losses"] == pytest.approx(other["losses"], abs=2e-6)
    for ours, theirs in zip(one["gradients"], other["gradients"], strict=True):
        ours, theirs = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", ["causal", "classifier"])
def test_a_batch_is_one_update_however_it_is_split(kinds, kind, tmp_path):
    plan, model, data = kinds[kind]
    given = lambda name, passes: (  # noqa: E731
        plan, model, data, tmp_path / name, SETTINGS.model_copy(update={"accumulation": passes}).model_dump_json()
    )  # fmt: skip
    whole = gradients(None, *given("whole", 1))
    assert len(whole["losses"]) == len(whole["gradients"]) == 4
    for passes in (2, 4):
        assert_same(gradients(None, *given(f"passes-{passes}", passes)), whole)
    for passes in (1, 4):
        folder = tmp_path / f"two-{passes}"
        folder.mkdir()
        for found in in_two("gradients", folder, *given(f"processes-{passes}", passes)):
            assert_same(found, whole)


def test_the_first_loss_of_a_new_classifier_is_the_logarithm_of_its_labels(kinds, tmp_path):
    plan, model, data = kinds["classifier"]
    for passes in (1, 4):
        settings = SETTINGS.model_copy(update={"accumulation": passes, "max_steps": 1})
        found = gradients(None, plan, model, data, tmp_path / str(passes), settings.model_dump_json())
        assert found["losses"] == pytest.approx([1.0986], abs=0.05)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 2e-3)])
def test_the_loss_of_an_evaluation_is_that_of_plan_evaluate_whatever_the_batch(kinds, precision, error, tmp_path):
    from planner import Plan
    from trainer import evaluate, train

    for kind, (plan, model, data) in kinds.items():
        for size in (3, 8):
            settings = SETTINGS.model_copy(update={"batch_size": size, "evaluations": 1, "precision": precision})
            report = train(Plan.load(plan), model, data, tmp_path / f"{kind}-{size}", settings, evaluation=data)
            expected = evaluate(tmp_path / f"{kind}-{size}", data).trained["loss"]
            assert report.evaluations[-1].loss == pytest.approx(expected, abs=error)


def test_a_models_own_idea_of_its_loss_does_not_count(kinds, tmp_path):
    """A configuration can say that a classifier's labels are numbers to be regressed on."""
    plan, model, data = kinds["classifier"]
    other = tmp_path / "model"
    other.mkdir()
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (other / "config.json").write_text(json.dumps(config))
    settings = SETTINGS.model_dump_json()
    assert_same(*(gradients(None, plan, at, data, tmp_path / str(n), settings) for n, at in enumerate((model, other))))
