"""`python -m tests.crash`: kill, freeze and starve the trading path at every step; exits 1 where a promise breaks."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash import kill_sweep, kill_switch, postgres_stops, same_key, schedulers
from tests.crash.children import spread
from tests.crash.figures import BREACHES, Result, Row, counted, largest, recovery, table, told
from tests.crash.kill_sweep import Kill, Variant
from tests.crash.world import PRODUCTION, SCALED, ZERODHA, Hall, hall, lay_out_zerodha, quieten
from tests.support.broker_book import Mode

RECOVERED_S_MAX = 10.0
UNKNOWN_S_MAX = 15.0
"""The last of the look-ups is due 13 s after the send."""
HOLDERS_POINTS = 110
"""About as many points as the holder of a shard passes between recording and the last answer."""
TICK_POINTS = 350
"""About as many as a tick of three users has."""
SHORT_VARIANTS = tuple(map(Variant, (Mode.ACCEPT, Mode.ACCEPT_THEN_RESET, Mode.DROP_BEFORE_ACCEPT, Mode.SHOW_LATE)))
PRODUCTION_MODES = (Mode.ACCEPT, Mode.ACCEPT_THEN_HANG, Mode.ACCEPT_THEN_502, Mode.PARTIAL)
SHORT_PACE = {"frozen_s": 2.5, "tick_s": 0.5, "rules": SCALED}
FULL_PACE = {"frozen_s": 30.0, "tick_s": 2.0, "rules": PRODUCTION}

Part = Callable[[Hall, argparse.Namespace], Iterator[Row | Result]]


def kills(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """SIGKILL at every point under every variant, at a faster clock."""
    if wanted.short:
        points = next(iter(kill_sweep.counts(place, SHORT_VARIANTS[:1], 1).values()))
        chosen = spread(points, wanted.samples or 6)
        rounds = [Kill(SHORT_VARIANTS[i % len(SHORT_VARIANTS)], at) for i, at in enumerate(chosen)]
    else:
        rounds = kill_sweep.plan(place, kill_sweep.VARIANTS, wanted.samples or sys.maxsize, wanted.at_once)
    results = list(kill_sweep.sweep(place, rounds, wanted.at_once))
    struck = sum(result["killed"] for result in results)
    variants = len({kill.variant for kill in rounds})
    yield Row(f"SIGKILL before an await ({variants} broker modes)", f"{struck} kills", "–", struck > 0)
    yield from counted(results)
    yield recovery(results, f"  recovered ({scale()})", None)
    yield from results


def zerodha(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """The same kills under the same variants, of accounts at Zerodha: its adapter over Kite's wire."""
    lay_out_zerodha(place)
    samples = wanted.samples or (1 if wanted.short else sys.maxsize)
    variants = SHORT_VARIANTS if wanted.short else kill_sweep.VARIANTS
    rounds = kill_sweep.plan(place, variants, samples, wanted.at_once, ZERODHA)
    results = list(kill_sweep.sweep(place, rounds, wanted.at_once))
    struck = sum(result["killed"] for result in results)
    yield Row(f"Zerodha: SIGKILL before an await ({len(variants)} variants)", f"{struck} kills", "–", struck > 0)
    yield from counted(results)
    yield recovery(results, f"  recovered ({scale()})", None)
    yield from results


def scale() -> str:
    return f"lease {SCALED['lease_s']:g} s, send {SCALED['send_timeout_s']:g} s, {SCALED['lookup']}"


def production(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """Kills around the send with the deployment's own times: how long until trading goes on?"""
    points = next(iter(kill_sweep.counts(place, (Variant(Mode.ACCEPT),), 1).values()))
    rounds = [Kill(Variant(mode), at, scaled=False) for mode in PRODUCTION_MODES for at in spread(points, 6)]
    results = list(kill_sweep.sweep(place, rounds, wanted.at_once))
    yield Row("SIGKILL at production's own times", f"{sum(r['killed'] for r in results)} kills", "≥ 20", True)
    yield from counted(results)
    proven = [result for result in results if not result["unknown"]]
    doubtful = [result for result in results if result["unknown"]]
    yield recovery(proven, "  restart → recovered, where the broker's book tells", RECOVERED_S_MAX)
    yield recovery(doubtful, "  restart → UNKNOWN, blocked and told, where it does not", UNKNOWN_S_MAX)
    yield from results


def pauses(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """Three traders; the holder of a shard is stopped, overtaken and woken."""
    pace = SHORT_PACE if wanted.short else FULL_PACE
    rounds = schedulers.pauses(wanted.rounds or (3 if wanted.short else 100), HOLDERS_POINTS, wanted.seed, **pace)
    results = list(schedulers.run_pauses(place, rounds, place.folder / "signs", 3 if wanted.short else 10))
    frozen = sum(result["where"] != "never reached" for result in results)
    name = f"three traders, one SIGSTOP {pace['frozen_s']:g} s → takeover → SIGCONT"
    yield Row(name, f"{frozen} rounds", f"= {len(rounds)}", frozen == len(rounds))
    yield from counted(results, ("stale", *BREACHES))
    yield from results


def stops(place: Hall, wanted: argparse.Namespace) -> Iterator[Row | Result]:
    """PostgreSQL stopped at once in running cycles."""
    rounds = postgres_stops.stops(2 if wanted.short else 50, TICK_POINTS, wanted.seed)
    limit_s = postgres_stops.READY_AGAIN_BUSY_S_MAX if wanted.short else postgres_stops.READY_AGAIN_S_MAX
    results = list(postgres_stops.run_stops(place, rounds, limit_s))
    yield Row("PostgreSQL stopped at once", f"{len(results)} times", "–", True)
    yield from counted(results)
    yield largest(results, "ready_s", "  started → first cycle done", limit_s, " s")
    yield largest(results, "checked_out", "  connections never given back", 0, "")
    yield from results


PARTS: dict[str, Part] = {"kills": kills, "production": production, "pauses": pauses, "stops": stops}
PARTS |= {"kill_switch": kill_switch.part, "same_key": same_key.part, "zerodha": zerodha}
SHORT_PARTS = ("kills", "pauses", "stops", "kill_switch", "same_key")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a spread sample of everything, about a minute")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts only")
    parser.add_argument("--samples", type=int, default=0, help="kills per broker mode; all points by default")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of three traders")
    parser.add_argument("--at-once", type=int, default=6, help="rounds running at a time")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="chooses the random points")
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "sauda-crash.log")
    wanted = parser.parse_args()
    quieten(wanted.log)
    holds = True
    print(f"seed {wanted.seed}, log {wanted.log}", flush=True)  # noqa: T201
    with (
        tempfile.TemporaryDirectory(prefix="sauda-crash-", ignore_cleanup_errors=True) as folder,
        hall(Path(folder)) as place,
    ):
        for name in wanted.only or (SHORT_PARTS if wanted.short else PARTS):
            began = time.monotonic()
            found = list(PARTS[name](place, wanted))
            rows = [row for row in found if isinstance(row, Row)]
            results = [result for result in found if not isinstance(result, Row)]
            took = Row("  took", f"{time.monotonic() - began:.0f} s", "–", True)
            print(table([*rows, took]), told(results), sep="\n", flush=True)  # noqa: T201
            holds = holds and all(row.holds for row in rows) and not any(r["breaches"] for r in results)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
