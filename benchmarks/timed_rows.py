"""Rows of the speed tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from mmhybrid.analysis.timing import ratio


def timed_rows(
    seconds: Mapping[str, list[float]], about: Mapping[str, Any], **ratios: str
) -> list[dict[str, Any]]:
    """A row for every model that was timed in turn with others.

    Args:
        seconds (Mapping[str, list[float]]): Of :func:`mmhybrid.analysis.timing.time_interleaved`.
        about (Mapping): What stands in all rows, after the model.
        **ratios: By column the model of reference; the column says how many times as fast.
    """
    return [
        {
            "model": name,
            **about,
            "seconds": statistics.median(values),
            **{column: ratio(seconds, other, name) for column, other in ratios.items()},
            "all_seconds": values,
        }
        for name, values in seconds.items()
    ]
