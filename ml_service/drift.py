"""Tell when the features that are served no longer look like those that were learned from, and when they only seem so.

Features of one month share one market: over 20 sessions most of them lie apart from their long-run distribution even
where nothing has changed. So what counts as drift is measured on the training data itself, by the same windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from contracts.scoreboard import FeatureDrift

BINS_PER_FEATURE = 10
BINS = [f"bin_{n}" for n in range(BINS_PER_FEATURE)]
DECILES = np.arange(1, BINS_PER_FEATURE) / BINS_PER_FEATURE
DRIFT_SESSIONS = 20
DRIFT_PSI_MAX = 0.25
DRIFTED_SHARE_MIN = 0.2
DRIFTED_SHARE_MAX = 0.9
TRAINING_MULTIPLE = 1.5


def _places(values: np.ndarray, inner: Sequence[float]) -> np.ndarray:
    return np.searchsorted(np.asarray(inner), values, side="right")


def feature_bins(values: np.ndarray, names: Sequence[str], deciles: Mapping[str, Sequence[float]]) -> pl.DataFrame:
    """How many of one session's rows (n × names) lie in each bin between the training deciles: feature and BINS."""
    rows = []
    for k, name in enumerate(names):
        if name not in deciles:
            continue
        known = values[np.isfinite(values[:, k]), k]
        counts = np.bincount(_places(known, deciles[name]), minlength=BINS_PER_FEATURE)
        rows.append({"feature": name} | dict(zip(BINS, counts.tolist(), strict=True)))
    return pl.DataFrame(rows, schema={"feature": pl.String} | dict.fromkeys(BINS, pl.Int64))


def stability_index(counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Population stability index Σ (a − e) ln(a / e) along the last axis (Siddiqi 2006): `counts` per bin against the
    `expected` shares. Half a row is added to each bin of both, so that an empty one is finite."""
    size = counts.sum(axis=-1, keepdims=True)
    half = 0.5 / np.maximum(size, 1)
    actual, reference = (share + half for share in (counts / np.maximum(size, 1), expected))
    return ((actual - reference) * np.log(actual / reference)).sum(axis=-1)


def baseline(values: np.ndarray, session: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What a model's manifest keeps of its training rows (n × names), `session` being each row's session number:
    per feature its deciles and the share of rows between them, and the largest share of features that drifted from
    these in any DRIFT_SESSIONS sessions in a row."""
    deciles = {name: np.quantile(values[:, k], DECILES).tolist() for k, name in enumerate(names)}
    _, number = np.unique(session, return_inverse=True)
    shape = (int(number.max()) + 1, BINS_PER_FEATURE)
    counts = np.stack(
        [
            np.bincount(
                number * BINS_PER_FEATURE + _places(values[:, k], deciles[name]), minlength=shape[0] * shape[1]
            ).reshape(shape)
            for k, name in enumerate(names)
        ],
        axis=1,
    )
    shares = counts.sum(axis=0) / len(values)
    sums = np.cumsum(counts, axis=0)
    windows = sums[DRIFT_SESSIONS - 1 :] - np.concatenate([np.zeros_like(sums[:1]), sums[:-DRIFT_SESSIONS]])
    judged = ((counts > 0).sum(axis=2) > 1).any(axis=0)
    over = stability_index(windows[:, judged], shares[judged]) > DRIFT_PSI_MAX
    return {
        "deciles": deciles,
        "shares": dict(zip(names, shares.round(6).tolist(), strict=True)),
        "drifted_share_max": float(over.mean(axis=1).max()) if over.size else 1.0,
    }


def drift(seen: pl.DataFrame, shares: Mapping[str, Sequence[float]]) -> list[FeatureDrift]:
    """Stability index per feature over the last DRIFT_SESSIONS of `seen` (session, feature, BINS), largest first.

    Empty under as many sessions. A feature that is one number for the whole market is left out: a month holds too few
    of them to tell a shift from a season.
    """
    recent = seen["session"].unique().sort().tail(DRIFT_SESSIONS)
    if len(recent) < DRIFT_SESSIONS:
        return []
    rows = seen.filter(pl.col("session").is_in(recent.to_list()), pl.col("feature").is_in(list(shares)))
    spread = rows.filter(pl.sum_horizontal(pl.col(BINS) > 0) > 1)["feature"].unique()
    sums = rows.filter(pl.col("feature").is_in(spread.to_list())).group_by("feature").agg(pl.col(BINS).sum())
    found = [
        FeatureDrift(
            feature=str(row[0]), psi=float(stability_index(np.array(row[1:], float), np.array(shares[row[0]])))
        )
        for row in sums.iter_rows()
    ]
    return sorted(found, key=lambda each: (-each.psi, each.feature))


def drifted(found: Sequence[FeatureDrift], training_share_max: float) -> bool:
    """Whether more features have shifted than a fifth, and than half as many again as ever did in training.

    `training_share_max` as `baseline` gives it. Nine in ten are drift whatever training saw.
    """
    shifted = sum(each.psi > DRIFT_PSI_MAX for each in found)
    limit = min(DRIFTED_SHARE_MAX, max(DRIFTED_SHARE_MIN, TRAINING_MULTIPLE * training_share_max))
    return shifted > limit * len(found)
