"""Does the budget bind?"""

import numpy as np
import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.study.examples import files_of, scores_of
from trainer.study.arms import Candidate
from trainer.study.binding import NEGLIGIBLE, check, neighbours, next_smaller, sized, told

NOISE = np.array([0.0, 0.002, -0.001, 0.001])


@pytest.fixture(scope="module")
def sizes(tiny_llama):
    checkpoint = open_checkpoint(tiny_llama)
    return [sized(size, checkpoint) for size in (750, 3_000, 12_000)]


def of(sizes, *losses, measure="loss"):
    """Scores of the sizes with these mean values."""
    rng = np.random.default_rng(0)
    return scores_of({one.name: {"t": loss + rng.permutation(NOISE)} for one, loss in zip(sizes, losses, strict=True)}, measure)


@pytest.mark.parametrize(
    ("losses", "binds", "enough"),
    [
        ((1.0, 1.0, 1.0), False, 0),
        ((1.1, 1.0, 1.0), True, 1),
        ((1.1, 1.1, 1.0), True, 2),
        ((1.2, 1.1, 1.0), True, 2),
        ((1.0, 1.0, 1.1), False, 0),
    ],
)
def test_a_budget_binds_where_a_step_in_size_changes_the_loss(sizes, losses, binds, enough):
    found = check(of(sizes, *losses), sizes, sizes[1], files_of(["t"], "loss"))
    assert found.binds is binds
    assert found.enough == sizes[enough].plan.parameters
    assert [size.parameters for size in found.sizes] == sorted(one.plan.parameters for one in sizes)
    assert told(found).startswith("The budget binds" if binds else "The budget does not bind")


def test_not_told_apart_is_not_alike(sizes):
    """Few seeds that vary much may hide any loss: nothing is concluded, and no small size is praised."""
    rng = np.random.default_rng(1)
    wild = scores_of({one.name: {"t": 1 + 30 * rng.permutation(NOISE)} for one in sizes}, "loss")
    found = check(wild, sizes, sizes[1], files_of(["t"], "loss"))
    assert found.binds is None
    assert found.enough == sizes[2].plan.parameters
    assert found.possible > NEGLIGIBLE
    assert told(found) == (
        f"Whether the budget binds cannot be told: so few runs leave a loss of up to {found.possible:.3f} nats per token to"
        " larger sizes possible."
    )


def test_where_nothing_varies_nothing_is_settled(sizes):
    still = scores_of({one.name: {"t": np.ones(4)} for one in sizes}, "loss")
    found = check(still, sizes, sizes[1], files_of(["t"], "loss"))
    assert found.binds is None
    assert np.isnan(found.possible)
    assert told(found) == "Whether the budget binds cannot be told: so few runs leave a loss to larger sizes possible."


def test_a_size_whose_runs_all_diverged_is_none_that_loses_nothing(sizes):
    scores = of(sizes, 1.0, 1.0, 1.0)
    del scores.runs[sizes[0].name]
    found = check(scores, sizes, sizes[1], files_of(["t"], "loss"))
    assert [size.arm for size in found.sizes] == [sizes[1].name, sizes[2].name]
    assert found.enough == sizes[1].plan.parameters
    with pytest.raises(InputError, match=r"every run of uniform-lora-\d+ diverged; give a smaller `learning_rate`"):
        check(scores, sizes, sizes[0], files_of(["t"], "loss"))


def test_where_more_is_better_the_larger_score_is(sizes):
    found = check(of(sizes, 0.5, 0.6, 0.6, measure="accuracy"), sizes, sizes[1], files_of(["t"], "accuracy"))
    assert found.binds
    small = f"{sizes[0].plan.parameters:,}"
    assert told(found).startswith(f"The budget binds: uniform LoRA of {small} parameters loses 10.00 points to ")


def test_sizes_far_apart_differ_though_no_step_does(sizes):
    # The middle one varies so much that it is told apart from neither.
    values = (1.02 + NOISE, 1.01 + 20 * NOISE, np.full(4, 1.0))
    scores = scores_of({one.name: {"t": losses} for one, losses in zip(sizes, values, strict=True)}, "loss")
    found = check(scores, sizes, sizes[1], files_of(["t"], "loss"))
    assert [(one.arm, one.other) for one in found.differences if one.worse] == [(sizes[0].name, sizes[2].name)]
    assert found.binds
    assert found.enough == sizes[2].plan.parameters  # what the middle one loses is not known


def test_a_larger_size_that_is_worse_binds_nothing(sizes):
    found = check(of(sizes, 1.0, 1.0, 1.1), sizes, sizes[1], files_of(["t"], "loss"))
    assert found.binds is False
    assert found.enough == sizes[0].plan.parameters


def test_smaller_sizes_are_tried_while_the_smallest_loses_nothing(sizes, tiny_llama):
    checkpoint = open_checkpoint(tiny_llama)
    alike = check(of(sizes, 1.0, 1.0, 1.0), sizes, sizes[1], files_of(["t"], "loss"))
    smaller = next_smaller(alike, checkpoint)
    assert smaller is None or smaller.plan.parameters < sizes[0].plan.parameters
    assert next_smaller(alike.model_copy(update={"enough": sizes[1].plan.parameters}), checkpoint) is None


def test_the_sizes_beside_are_a_quarter_and_four_times(tiny_llama):
    found = neighbours(3_000, open_checkpoint(tiny_llama))
    assert all(isinstance(one, Candidate) and not one.own for one in found)
    assert [one.plan.parameters / 3_000 for one in found] == pytest.approx([0.25, 4], rel=0.3)
    assert sized(10, open_checkpoint(tiny_llama)) is None
