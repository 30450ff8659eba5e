"""How long after an event requests are well again. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def recovered_after_s(
    due_s: NDArray[np.float64],
    is_good: NDArray[np.bool_],
    *,
    event_s: float,
    window_s: float,
    attainment_ratio: float,
) -> float | None:
    """Seconds from the event until requests keep the SLO and go on to do so; 0 if they never
    stopped, `None` if they have not begun to again by the end.

    That is when the last bad request was due, of those around which, `window_s` wide, too small a
    share is good: a single slow one among many good ones is what an attainment ratio allows.

    Args:
        due_s: [num_requests], rising.
        is_good: [num_requests], whether each keeps the SLO.

    >>> due_s = np.arange(0.0, 60.0, 0.5)
    >>> is_good = (due_s < 20) | (due_s > 31)
    >>> recovered_after_s(due_s, is_good, event_s=25, window_s=5, attainment_ratio=0.99)
    6.0
    """
    num_bad_before = np.concatenate([[0], np.cumsum(~is_good)])
    for place in np.flatnonzero(~is_good & (due_s >= event_s))[::-1]:
        at_s = due_s[place]
        begin, end = np.searchsorted(due_s, (at_s - window_s / 2, at_s + window_s / 2))
        num_bad = num_bad_before[end] - num_bad_before[begin]
        if num_bad > (1 - attainment_ratio) * (end - begin):
            is_at_end = due_s[-1] - at_s < window_s / 2
            return None if is_at_end else float(at_s - event_s)
    return 0.0
