"""What is left where outcomes are dealt out at random: nothing, or the walk-forward itself leaks."""

from dataclasses import replace

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from contracts.predictions import HORIZON_SESSIONS_DEFAULT
from ml_service.checkpoint import no_checkpoint
from ml_service.evidence import rank_ic
from ml_service.labels import COST_FRACTION
from ml_service.model import HEADS, RETURN_HEAD, STRATEGY
from ml_service.strategies import STRATEGIES
from ml_service.train import members_only
from ml_service.walkforward import Dataset, Progress, fold_starts, make_dataset, score_folds
from tests.evaluation.claims import Claim, at_most, within

SEEDS = (1, 2, 3, 4, 5)
MEMBERS = 40
AUC_GAP_MAX, RANK_IC_MAX = 0.02, 0.01


def shuffled(data: Dataset, seed: int) -> Dataset:
    """Every known outcome given to another row, in units of the row's own ATR."""
    own, known = data.labels, np.flatnonzero(data.labels.known)
    order = np.random.default_rng(seed).permutation(known)
    gross = own.gross.copy()
    gross[known] = data.scaled_return[order] * data.atr_fraction[known]
    events = {name: hit.copy() for name, hit in own.events.items()}
    for name, hit in events.items():
        hit[known] = own.events[name][order]
    return replace(data, labels=replace(own, gross=gross, net=gross - COST_FRACTION, events=events))


def scored(data: Dataset, progress: Progress) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Walk-forward rows and raw scores of the machine-learned strategy."""
    strategy = next(one for one in STRATEGIES if one.name == STRATEGY)
    folds = list(score_folds(data, strategy, fold_starts(data), progress, no_checkpoint))
    scores = {name: np.concatenate([found[name] for _, found in folds]) for name in HEADS}
    return np.concatenate([rows for rows, _ in folds]), scores


def claims(bars: pl.DataFrame, progress: Progress, seeds: tuple[int, ...] = SEEDS) -> list[Claim]:
    """Pooled over the seeds: AUC of each event, and the rank correlation of the expected return."""
    frame, _ = members_only(bars, MEMBERS)
    data = make_dataset(frame, HORIZON_SESSIONS_DEFAULT)
    areas: dict[str, list[float]] = {name: [] for name in HEADS if name != RETURN_HEAD}
    ranks: list[float] = []
    for number, seed in enumerate(seeds):
        dealt = shuffled(data, seed)
        rows, scores = scored(dealt, lambda *_, number=number, seed=seed: progress(number, len(seeds), f"seed {seed}"))
        for name, found in areas.items():
            found.append(float(roc_auc_score(dealt.labels.events[name][rows], scores[name])))
        score = scores[RETURN_HEAD] / dealt.atr_fraction[rows]
        ranks.append(rank_ic(score, dealt.scaled_return[rows], dealt.session[rows]))
    return [
        *(
            within(f"AUC of {name}, outcomes shuffled", float(np.mean(found)), 0.5 - AUC_GAP_MAX, 0.5 + AUC_GAP_MAX)
            for name, found in areas.items()
        ),
        at_most("|rank IC|, outcomes shuffled", abs(float(np.mean(ranks))), RANK_IC_MAX),
    ]
