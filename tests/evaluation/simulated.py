"""On the simulated market, where the truth is planted: it is found where it is, and not where it is not."""

import asyncio
import tempfile
from datetime import date
from pathlib import Path
from statistics import NormalDist
from typing import Any

import polars as pl

from contracts.predictions import Action
from ml_service.client import DataServiceClient
from ml_service.model import STRATEGY
from ml_service.predict import answer_session
from ml_service.registry import Artefact, Registry
from ml_service.train import TRAIN_FROM_DEFAULT, fetch_bars, no_progress, train_and_register
from ml_service.walkforward import Progress
from tests.evaluation.claims import Claim, nothing, within
from tests.evaluation.market import simulated_market
from tests.evaluation.ship import THROUGH

SESSIONS_ANSWERED = 40
CALL_TIMEOUT_S = 120.0
MODES = ("conservative", "moderate", "aggressive")


def calibrated(manifest: dict[str, Any]) -> list[Claim]:
    """Of each mode of the machine-learned strategy: what it stated lies within the 95 % interval of what happened.

    Each interval by itself is an aim. The claim is that all of them hold at once, with 95 % (Bonferroni 1936): of six
    intervals that are right, one in four times some one misses.
    """
    modes: dict[str, Any] = manifest["strategies"][STRATEGY]["modes"]
    found = [nothing("modes without the evidence to judge them", [m for m in MODES if not modes[m].get("net")])]
    looked = [
        (f"stated {what}, {name}, edge 1", modes[name][stated], modes[name][realised])
        for name in MODES
        for stated, realised, what in (("stated", "hit_rate", "confidence"), ("stated_net", "net", "net return"))
        if modes[name].get("net") and modes[name]["net"]["low"] is not None
    ]
    normal = NormalDist()
    wider = normal.inv_cdf(1 - 0.025 / max(1, len(looked))) / normal.inv_cdf(1 - 0.025)
    for what, stated, realised in looked:
        low, mean, high = realised["low"], realised["mean"], realised["high"]
        found.append(within(what, stated, low, high, aim=True))
        together = within(f"{what}, all at once", stated, mean - wider * (mean - low), mean + wider * (high - mean))
        found.append(together)
    return found


def certificates(manifest: dict[str, Any]) -> list[str]:
    """Every certified mode of any strategy."""
    return [
        f"{mode} ({strategy})"
        for strategy, record in manifest["strategies"].items()
        for mode, one in record["modes"].items()
        if one["certified"]
    ]


def _bars(url: str, first: date, last: date) -> pl.DataFrame:
    async def fetch() -> pl.DataFrame:
        async with DataServiceClient(url, CALL_TIMEOUT_S) as client:
            return (await fetch_bars(client, None, first, last, no_progress)).bars

    return asyncio.run(fetch())


def default_bars() -> pl.DataFrame:
    """What the default market's history is before it starts."""
    with simulated_market() as url:
        return _bars(url, TRAIN_FROM_DEFAULT, THROUGH)


def _bought(url: str, artefact: Artefact) -> int:
    """BUYs of any strategy, as of each of the last sessions."""
    first, last = (date.fromisoformat(artefact.manifest[name]) for name in ("train_from", "trained_through"))
    bars, count = _bars(url, first, last), 0
    for session in bars["session"].unique().sort().tail(SESSIONS_ANSWERED):
        answers = answer_session(artefact, bars, session)
        said = [*answers.predictions.values(), *(one for many in answers.candidates.values() for one in many)]
        count += sum(one.action is Action.BUY for one in said)
    return count


def _trained(edge: str, progress: Progress) -> tuple[Artefact, int]:
    """A model of a market with that edge, and how often it buys there."""
    with tempfile.TemporaryDirectory() as folder, simulated_market(SIM_EDGE=edge) as url:
        artefact, _ = train_and_register(data_service_url=url, registry=Registry(Path(folder)), progress=progress)
        return artefact, _bought(url, artefact)


def claims(progress: Progress) -> list[Claim]:
    """With the whole edge and with none."""
    whole, bought = _trained("1", lambda done, total, what: progress(done, total, f"edge 1, {what}"))
    found = calibrated(whole.manifest)
    found.append(Claim("BUYs, edge 1", str(bought), "some", bought > 0))
    none, bought = _trained("0", lambda done, total, what: progress(done, total, f"edge 0, {what}"))
    found.append(nothing("certified modes of any strategy, edge 0", certificates(none.manifest)))
    found.append(nothing(f"BUYs in {SESSIONS_ANSWERED} sessions, edge 0", bought))
    return found
