"""Whether anything that a model sees of a session knows of a later one: asked of a whole market, early and late."""

import polars as pl

from ml_service.look_ahead import (
    DISTURBANCES,
    MEMBERS,
    OF_VOLUME,
    OTHERS,
    TOLERANCE,
    VOLUME_TOLERANCE,
    disagreement,
    halved,
    leaks,
    tail_disagreement,
    visible,
)
from ml_service.walkforward import Progress
from tests.evaluation.claims import Claim, at_most, nothing


def claims(bars: pl.DataFrame, which: str, progress: Progress) -> list[Claim]:
    """Every disturbance of what came after an early and a late session, the serving tail, and another adjustment."""
    days = bars["session"].unique().sort()
    moments = (days[len(days) // 3], days[-30])
    seen, steps = visible(bars, MEMBERS), len(DISTURBANCES) + 1
    found: list[Claim] = []
    for number, (name, disturb) in enumerate(DISTURBANCES.items()):
        progress(number, steps, name)
        told = {column for day in moments for column in leaks(bars, day, disturb, MEMBERS, before=seen)}
        found.append(nothing(f"columns that know the future, {name}, {which}", sorted(told)))
    progress(steps - 1, steps, "tail and adjustment")
    found.append(at_most(f"tail against whole history, {which}", tail_disagreement(bars), TOLERANCE))
    split = visible(halved(bars), MEMBERS)
    found.append(at_most(f"after another adjustment, {which}", disagreement(seen, split, OTHERS), TOLERANCE))
    moved = disagreement(seen, split, OF_VOLUME)
    return [*found, at_most(f"after another adjustment, of volumes, {which}", moved, VOLUME_TOLERANCE)]
