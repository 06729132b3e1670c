"""What `sauda ml evaluate` finds on recorded exchange data, held against what is honest and what is aimed at."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.evaluation.claims import Claim, at_least, at_most, nothing
from tests.evaluation.recorded_files import Recorded

AUC_MAX, RANK_IC_MAX, HIT_RATE_MAX, HITS_MIN = 0.62, 0.12, 0.95, 200
"""Above these a leak is presumed."""
ECE_TOUCH_MAX, ECE_MAX = 0.015, 0.03
SKILL_MIN = {"touch_0.02": 0.015, "bracket": 0.005}


def evaluated(files: Recorded, with_history: bool) -> dict[str, Any]:
    """The record of the command, whose tables go to the terminal. Raises CalledProcessError."""
    from_ = files.from_history if with_history else files.from_
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        options = {
            "--data": files.data,
            "--factors": files.factors,
            "--from": from_,
            "--to": files.to,
            "--json": record,
            "--data-dir": folder,
        } | ({"--history": files.history} if with_history else {})
        words = [str(word) for option in options.items() for word in option]
        subprocess.run([sys.executable, "-m", "sauda", "ml", "evaluate", *words], check=True)
        return json.loads(record.read_text())


def honest(record: dict[str, Any], which: str) -> list[Claim]:
    """Nothing is too good to be true."""
    metrics = record["metrics"]
    lucky = [
        f"{mode} ({strategy})"
        for strategy, one in record["strategies"].items()
        for mode, found in one["modes"].items()
        if found["candidates"] >= HITS_MIN and found["hit_rate"]["mean"] > HIT_RATE_MAX
    ]
    areas = [event["auc"] for event in metrics["events"].values() if event["auc"] is not None]
    return [
        at_most(f"highest AUC, {which}", max(areas), AUC_MAX),
        at_most(f"|rank IC|, {which}", abs(metrics["rank_ic"]), RANK_IC_MAX),
        nothing(f"modes hitting over {HIT_RATE_MAX:.0%} of {HITS_MIN} or more, {which}", lucky),
    ]


def aims(record: dict[str, Any], which: str) -> list[Claim]:
    """Pooled over all rows judged: calibration error and skill against the trailing base rate."""
    events = record["metrics"]["events"]
    found = [
        at_most(
            f"ECE of {name}, {which}", event["ece"], ECE_TOUCH_MAX if name.startswith("touch") else ECE_MAX, aim=True
        )
        for name, event in events.items()
    ]
    skill = {name: events[name]["brier_skill"] for name in SKILL_MIN}
    return found + [
        at_least(f"Brier skill of {name}, {which}", skill[name] or 0.0, least, aim=True)
        for name, least in SKILL_MIN.items()
    ]


def claims(files: Recorded) -> list[Claim]:
    """Without earlier years, and with them where there are any."""
    found: list[Claim] = []
    for with_history in (False, True):
        if with_history and files.history is None:
            continue
        which = "with history" if with_history else "no history"
        record = evaluated(files, with_history)
        found += honest(record, which) + aims(record, which)
    return found
