"""A learning rate for every plan, chosen on data that the sweep does not train on."""

import math
from dataclasses import replace

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.examples import read_rows, write_rows
from tests.trainer.study.examples import QUICK, evaluation_of
from trainer.study.jobs import Job
from trainer.study.study import Study
from trainer.study.sweep import best_rates, checked_rates, sweep_jobs

JOB = Job(candidate="a", plan="", model="", data=(), tests=(), folder="", settings=QUICK, threads=1)


def tried(*pairs, candidate="a"):
    """Finished trials of (learning rate, loss); None for one that diverged."""
    return [
        (replace(JOB, candidate=candidate, settings=QUICK.model_copy(update={"learning_rate": rate})),
         None if loss is None else evaluation_of(t={"loss": loss, "accuracy": 0.5}))
        for rate, loss in pairs
    ]  # fmt: skip


def test_a_rate_that_diverges_is_only_not_chosen():
    jobs = tried((1.0, None), (1e-2, 0.5), (1e-3, 0.7))
    assert best_rates(jobs) == {"a": 1e-2}
    with pytest.raises(InputError, match="plan 'a' diverges at every rate of `rates`; add smaller ones"):
        best_rates(jobs[:1])


def test_a_loss_that_is_not_finite_counts_as_diverged():
    assert best_rates(tried((1.0, math.nan), (1e-2, math.inf), (1e-3, 0.7))) == {"a": 1e-3}


def test_of_equal_losses_the_smaller_rate_is_taken():
    assert best_rates(tried((1e-2, 0.5), (1e-3, 0.5), (1e-1, 0.5))) == {"a": 1e-3}


def test_every_plan_has_its_own_best_rate():
    found = [*tried((1e-2, 0.5), (1e-3, 0.7)), *tried((1e-2, 0.9), (1e-3, 0.6), candidate="b")]
    assert best_rates(found) == {"a": 1e-2, "b": 1e-3}
    assert best_rates([]) == {}


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((-1e-3, 1e-2), "`rates`: learning_rate: .*greater than 0"),
        ((math.inf,), "`rates`: learning_rate: .*finite"),
        ((1e-3, 1e-3), "`rates` names a rate twice: 0.001, 0.001"),
    ],
)
def test_rates_that_cannot_be_trained_with_are_refused(rates, message):
    with pytest.raises(InputError, match=message):
        checked_rates(rates, QUICK)


def test_rates_stay_in_their_order():
    assert checked_rates([1e-2, 1e-3], QUICK) == (1e-2, 1e-3)
    assert checked_rates([], QUICK) == ()


@pytest.fixture
def study(tiny_llama, lora_plan, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"text": f"the file {number}"} for number in range(40)])
    return Study(
        candidates={"mine": lora_plan}, checkpoint=open_checkpoint(tiny_llama), data=(str(data),), tests=("c",),
        output=tmp_path / "study", settings=QUICK, seeds=1, rates=(1e-2, 1e-3), processes=1,
    )  # fmt: skip


def test_trials_train_on_nine_tenths_and_are_scored_on_the_rest(study):
    one, other = sweep_jobs(study)
    assert (one.data, one.tests) == (other.data, other.tests)
    kept, held = (read_rows(study.output / "sweep" / "data" / f"0-{part}.jsonl") for part in ("train", "validation"))
    assert (len(kept), len(held)) == (36, 4)
    assert one.data[0].endswith("0-train.jsonl")
    assert one.tests[0].endswith("0-validation.jsonl")


def test_without_rates_nothing_is_tried_or_split(study):
    assert sweep_jobs(replace(study, rates=())) == []
    assert not study.output.exists()


def test_too_little_data_is_refused(study, tmp_path):
    few = write_rows(tmp_path / "few.jsonl", [{"text": "a"}] * 10)
    with pytest.raises(InputError, match=r"few\.jsonl: 10 examples are too few to keep a tenth for validation"):
        sweep_jobs(replace(study, data=(str(few),)))
