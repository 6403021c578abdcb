"""A learning rate for those who do not know theirs: successive halving over a short grid, on held-out loss.

Every rate of the grid is tried in a short run, the better half in runs twice as long, until one is left (Jamieson and Talwalkar,
arXiv 1502.07943). A short run likes a somewhat larger rate than a long one; the rate moves results more than any allocation, so a
rough answer is worth its cost, which the report states.
"""

import math
from collections.abc import Callable, Sequence

from spectra import InputError
from trainer.report import RateSearch, TriedRate

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
SHARE, LEAST, MOST = 20, 10, 50  # a first run is this part of the whole, within these numbers of steps


def search(loss_of: Callable[[float, int], float], steps: int, rates: Sequence[float] = RATES) -> RateSearch:
    """Find the rate with the least held-out loss.

    Args:
        loss_of: trains at a rate for some steps and returns the held-out loss; infinite or NaN if it diverged.
        steps: of the run that the rate is for.
        rates: what to choose from.

    Raises:
        InputError: every rate diverged.
    """
    tried: list[TriedRate] = []
    left, length = list(rates), max(LEAST, min(MOST, steps // SHARE))
    while len(left) > 1:
        losses = {rate: loss_of(rate, length) for rate in left}
        tried += [TriedRate(learning_rate=rate, steps=length, loss=loss) for rate, loss in losses.items()]
        finite = [rate for rate in left if math.isfinite(losses[rate])]
        if not finite:
            raise InputError(
                f"`learning_rate` auto: the loss diverges at every rate from {min(rates):g} to {max(rates):g}; give one"
            )
        # Of equal ones the smaller, which is safer in the longer run.
        left = sorted(finite, key=lambda rate: (losses[rate], rate))[: max(1, len(left) // 2)]
        length *= 2
    return RateSearch(learning_rate=left[0], tried=tuple(tried))
