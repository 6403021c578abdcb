"""A learning rate for every plan, chosen on data that is never reported."""

import math

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.examples import read_rows, write_rows
from tests.trainer.study.examples import QUICK, outcome_of
from trainer.report import TriedRate
from trainer.study.arms import Candidate
from trainer.study.rates import FURTHER, best, checked_rates, parts_of, tuned
from trainer.study.study import TRIAL_SEED, Study


@pytest.fixture
def study(tiny_llama, lora_plan, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"text": f"the file {number}"} for number in range(40)])
    return Study(
        candidates=[Candidate(name="mine", plan=lora_plan)], checkpoint=open_checkpoint(tiny_llama), data=(str(data),), tests=(),
        output=tmp_path / "study", settings=QUICK.model_copy(update={"learning_rate": 1.0}), seeds=1, rates=None,
    )  # fmt: skip


def runner(loss_of, seen):
    """Does runs whose loss is a function of the rate; None diverges."""

    def run(jobs):
        seen.extend(job.settings.rate for job in jobs)
        assert {job.settings.seed for job in jobs} <= {TRIAL_SEED}
        losses = [loss_of(job.settings.rate) for job in jobs]
        return [
            (job, outcome_of({} if loss is None else {"t": loss}, "loss", diverged="" if loss is not None else "loss is nan"))
            for job, loss in zip(jobs, losses, strict=True)
        ]

    return run


@pytest.mark.parametrize(
    ("loss_of", "tried", "found"),
    [
        (lambda rate: (rate - 1) ** 2, [0.5, 1, 2], 1),
        (lambda rate: (rate - 4) ** 2, [0.5, 1, 2, 4, 8], 4),
        (lambda rate: (rate - 0.25) ** 2, [0.5, 1, 2, 0.25, 0.125], 0.25),
        (lambda rate: -rate, [0.5, 1, 2, 4, 8, 16], 16),
        (lambda rate: rate if rate < 0.4 else None, [0.5, 1, 2, 0.25, 0.125, 0.0625], 0.0625),
    ],
)
def test_rates_are_tried_by_twos_in_the_direction_in_which_the_loss_falls(study, loss_of, tried, found):
    seen = []
    (rates,) = tuned(study, study.candidates, runner(loss_of, seen)).values()
    assert seen == tried
    assert len(seen) <= 3 + FURTHER
    assert best(rates) == found
    assert [one.learning_rate for one in rates] == sorted(tried)


def test_given_rates_are_tried_and_no_others(study):
    seen = []
    given = Study(**{name: getattr(study, name) for name in study.__dataclass_fields__} | {"rates": (1e-2, 1e-3)})
    tuned(given, given.candidates, runner(lambda rate: -rate, seen))
    assert seen == [1e-2, 1e-3]
    none = Study(**{name: getattr(study, name) for name in study.__dataclass_fields__} | {"rates": ()})
    assert tuned(none, none.candidates, runner(None, seen)) == {}


def test_a_plan_that_diverges_at_every_rate_is_refused(study):
    with pytest.raises(InputError, match=r"plan 'mine' diverges at every learning rate from 0.0625 to 2; give smaller ones"):
        tuned(study, study.candidates, runner(lambda rate: None, []))


def test_of_equal_losses_the_smaller_rate_is_taken_and_nan_never():
    tried = [TriedRate(learning_rate=rate, steps=1, loss=loss) for rate, loss in ((2.0, 0.5), (1.0, 0.5), (4.0, math.nan))]
    assert best(tried) == 1.0


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
    assert (checked_rates([], QUICK), checked_rates(None, QUICK)) == ((), None)


def test_trials_train_on_nine_tenths_and_are_scored_on_the_rest(study):
    ((train, held),) = parts_of(study)
    assert (len(read_rows(train)), len(read_rows(held))) == (36, 4)
    job = study.trial(study.candidates[0], 0.5, [(train, held)])
    assert (job.data, list(job.tests.values())) == ((str(train),), [str(held)])


def test_too_little_data_is_refused(study, tmp_path):
    few = write_rows(tmp_path / "few.jsonl", [{"text": "a"}] * 10)
    small = Study(**{name: getattr(study, name) for name in study.__dataclass_fields__} | {"data": (str(few),)})
    with pytest.raises(InputError, match=r"few\.jsonl: 10 examples are too few to keep a tenth for validation"):
        parts_of(small)
