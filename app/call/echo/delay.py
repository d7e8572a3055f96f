"""How long an echo is under way: the lag at which what the microphone heard looks most like what was played."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.call.echo.bands import BANDS, Rows, decibels

RANGE_DB = 40.0
"""What lies further below the loudest moment counts as just that quiet: noise decides about it."""


LEAST_DB = 1.0
"""Two streams whose levels move by less than this are not compared: one of them is silent."""


def likeness(heard: Rows, played: Rows) -> NDArray[np.float32]:
    """Correlation coefficients of the levels in all bands, each about its own mean, by lag: float32 [lags].

    ``heard`` is [hops, BANDS], ``played`` [hops + lags − 1, BANDS] and ends when ``heard`` does: entry ``n`` is about
    what was played n hops before it was heard. An echo in a quiet room comes to 0.9 and a person who talks over an
    answer, at the best of 81 lags, to less than 0.7 in windows of a second.
    """
    hops, lags = len(heard), len(played) - len(heard) + 1
    x, y = _levels(heard), _levels(played)
    x -= x.mean(axis=0)
    every = np.ascontiguousarray(y @ x.T)  # [hops + lags − 1, hops]; each lag is one of its diagonals
    step = every.itemsize
    products = np.lib.stride_tricks.as_strided(every, (lags, hops), (hops * step, (hops + 1) * step)).sum(axis=1)
    # Per lag: the variance of the window, from running sums.
    sums = np.concatenate([np.zeros((1, BANDS)), np.cumsum(y, axis=0, dtype=np.float64)])
    squares = np.concatenate([[0.0], np.cumsum((y.astype(np.float64) ** 2).sum(axis=1))])
    means = (sums[hops:] - sums[:-hops]) / hops
    variances = np.maximum(squares[hops:] - squares[:-hops] - hops * (means**2).sum(axis=1), 0.0)
    scale = np.sqrt(variances * float(np.dot(x.ravel(), x.ravel())))
    by_lag = products / np.maximum(scale, hops * BANDS * LEAST_DB**2)
    return np.asarray(by_lag[::-1], np.float32)


def _levels(energies: Rows) -> Rows:
    level = decibels(energies)
    clipped: Rows = np.maximum(level, level.max() - np.float32(RANGE_DB))
    return clipped
