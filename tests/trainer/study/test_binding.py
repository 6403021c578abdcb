"""Does the budget bind?"""

import numpy as np
import pytest

from spectra import open_checkpoint
from tests.trainer.study.examples import files_of, scores_of
from trainer.study.arms import Candidate
from trainer.study.binding import check, neighbours, next_smaller, sized, told

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
    assert found.binds == binds
    assert found.enough == sizes[enough].plan.parameters
    assert [size.parameters for size in found.sizes] == sorted(one.plan.parameters for one in sizes)
    assert told(found).startswith("The budget binds" if binds else "The budget does not bind")


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
    assert found.enough == sizes[1].plan.parameters


def test_what_is_called_alike_says_which_difference_would_have_been_found(sizes):
    found = check(of(sizes, 1.0, 1.0, 1.0), sizes, sizes[1], files_of(["t"], "loss"))
    assert 0.001 < found.detectable < 0.02
    assert told(found).endswith(f", where {found.detectable:.3f} nats per token would be found in four of five checks.")
    still = found.model_copy(update={"detectable": float("nan")})
    assert told(still).endswith(f" is not told apart from any of up to {found.sizes[-1].parameters:,}.")


def test_a_larger_size_that_is_worse_binds_nothing(sizes):
    found = check(of(sizes, 1.0, 1.0, 1.1), sizes, sizes[1], files_of(["t"], "loss"))
    assert not found.binds
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
