"""One session's predictions: the plan's prices, the abstentions, and what a certificate changes."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import polars as pl
import pytest

from contracts.predictions import Action, Prediction
from ml_service.calibrate import apply_calibration
from ml_service.features import FEATURES, compute_features
from ml_service.labels import COST_FRACTION, touch_name
from ml_service.model import STRATEGY
from ml_service.predict import SELL_EXPECTED_NET_MAX, Ages, answer_session, rupees, too_old
from ml_service.registry import Artefact


def predict_universe(artefact: Artefact, bars: pl.DataFrame, through: date) -> dict[str, Prediction]:
    return answer_session(artefact, bars, through).predictions


PRICES = ("open", "high", "low", "close")


@pytest.fixture
def last(planted: pl.DataFrame) -> date:
    return planted["session"].max()


def changed(bars: pl.DataFrame, symbol: str, session: date, factor: float) -> pl.DataFrame:
    row = (pl.col("symbol") == symbol) & (pl.col("session") == session)
    return bars.with_columns(
        *(pl.when(row).then(pl.col(name) * factor).otherwise(pl.col(name)).alias(name) for name in PRICES)
    )


def test_served_numbers_are_the_models_on_the_same_features(
    artefact: Artefact, planted: pl.DataFrame, last: date
) -> None:
    answers = predict_universe(artefact, planted.filter(pl.col("session") > last - timedelta(days=600)), last)
    rows = compute_features(planted).filter(pl.col("session") == last)
    forecast = apply_calibration(
        artefact.calibrations[STRATEGY],
        artefact.models[STRATEGY].scores(rows.select(FEATURES).to_numpy(), rows["atr_fraction"].to_numpy()),
        rows["atr_fraction"].to_numpy(),
    )
    compared = 0
    for i, row in enumerate(rows.iter_rows(named=True)):
        answer = answers[row["symbol"]]
        if answer.expected_return_net is None:
            continue
        compared += 1
        assert answer.expected_return_net == pytest.approx(forecast.expected[i], rel=1e-6)
        assert answer.confidence == pytest.approx(forecast.events["net_profit"][i], rel=1e-6)
        assert [t.net_return for t in answer.touch] == [0.01, 0.015, 0.02, 0.025, 0.03, 0.035]
        assert [t.probability for t in answer.touch] == pytest.approx(
            [forecast.events[touch_name(t.net_return)][i] for t in answer.touch], rel=1e-6
        )
        assert all(lower.probability >= higher.probability for lower, higher in pairwise(answer.touch))
        assert answer.reference_close == rupees(row["close"])
        assert float(answer.target or 0) == pytest.approx(row["close"] + 1.5 * row["atr"], abs=0.03)
        assert float(answer.stop or 0) == pytest.approx(row["close"] - 3 * row["atr"], abs=0.03)
    assert compared >= 18


def consistent(answer: Prediction) -> bool:
    expected, lower = answer.expected_return_net, answer.expected_return_net_lower
    if expected is None or lower is None:
        return answer.action is Action.HOLD and bool(answer.reasons)
    if answer.action is Action.BUY:
        return expected > 0 and lower > 0 and not answer.reasons
    if answer.action is Action.SELL:
        return expected <= SELL_EXPECTED_NET_MAX and 2 * expected - lower < 0
    return expected <= 0 or lower <= 0


def test_actions_follow_the_bounds(artefact: Artefact, planted: pl.DataFrame) -> None:
    seen = set()
    for session in planted["session"].unique().sort().tail(12):
        answers = predict_universe(artefact, planted.filter(pl.col("session") > session - timedelta(days=600)), session)
        assert all(consistent(answer) for answer in answers.values())
        seen |= {answer.action for answer in answers.values()}
        for answer in answers.values():
            if answer.expected_return_net is not None and answer.expected_return_gross is not None:
                assert answer.expected_return_gross - answer.expected_return_net == pytest.approx(COST_FRACTION)
    assert seen == set(Action)


def test_without_a_certified_mode_nothing_is_bought_or_sold(
    artefact: Artefact, planted: pl.DataFrame, last: date
) -> None:
    assert any(p.action is Action.BUY for p in predict_universe(artefact, planted, last).values())
    record = artefact.manifest["strategies"][STRATEGY]
    modes = {name: mode | {"certified": False} for name, mode in record["modes"].items()}
    strategies = artefact.manifest["strategies"] | {STRATEGY: record | {"modes": modes}}
    doubted = replace(artefact, manifest=artefact.manifest | {"strategies": strategies})
    answers = predict_universe(doubted, planted, last).values()
    assert {answer.action for answer in answers} == {Action.HOLD}
    assert all(answer.reasons for answer in answers)
    assert sum(answer.reasons == ["insufficient_evidence"] for answer in answers) >= 18


def test_a_symbol_without_the_last_session_is_stale(artefact: Artefact, planted: pl.DataFrame, last: date) -> None:
    missing = planted.filter(~((pl.col("symbol") == "SIM03") & (pl.col("session") == last)))
    answer = predict_universe(artefact, missing, last)["SIM03"]
    assert (answer.action, answer.reasons, answer.confidence) == (Action.HOLD, ["stale_bars"], None)


def test_a_young_listing_has_too_short_a_history(artefact: Artefact, planted: pl.DataFrame, last: date) -> None:
    first = planted["session"].unique().sort()[-200]
    young = planted.filter((pl.col("symbol") != "SIM03") | (pl.col("session") >= first))
    assert predict_universe(artefact, young, last)["SIM03"].reasons == ["short_history"]
    absent = planted.filter(pl.col("symbol") != "SIM03")
    assert predict_universe(artefact, absent, last)["SIM03"].reasons == ["short_history"]


def test_an_unadjusted_split_is_an_unexplained_move(artefact: Artefact, planted: pl.DataFrame, last: date) -> None:
    halved = changed(planted, "SIM03", last, 0.5)
    assert predict_universe(artefact, halved, last)["SIM03"].reasons == ["unexplained_move"]


def test_features_outside_the_training_range_abstain(artefact: Artefact, planted: pl.DataFrame, last: date) -> None:
    fallen = changed(planted, "SIM03", last, 0.83)
    assert predict_universe(artefact, fallen, last)["SIM03"].reasons == ["out_of_range_features"]


def test_later_bars_change_nothing(artefact: Artefact, planted: pl.DataFrame) -> None:
    session = planted["session"].unique().sort()[-6]
    known = planted.filter(pl.col("session") <= session)
    assert predict_universe(artefact, planted, session) == predict_universe(artefact, known, session)


def test_no_bars_at_all_abstain(artefact: Artefact, planted: pl.DataFrame, last: date) -> None:
    answers = predict_universe(artefact, planted.clear(), last)
    assert {tuple(answer.reasons) for answer in answers.values()} == {("short_history",)}


def test_models_and_calibrations_expire(artefact: Artefact) -> None:
    ages = Ages(model_age_days_max=400, calibration_age_days_max=120)
    trained = artefact.trained_through
    assert artefact.calibrated_through == trained
    assert not too_old(artefact, trained + timedelta(days=120), ages)
    assert too_old(artefact, trained + timedelta(days=121), ages)
    assert not too_old(artefact, trained + timedelta(days=400), Ages(400, 9999))
    assert too_old(artefact, trained + timedelta(days=401), Ages(400, 9999))


def test_prices_are_multiples_of_five_paise() -> None:
    assert [rupees(price) for price in (100.024, 100.026, 99.999)] == [
        Decimal("100.00"),
        Decimal("100.05"),
        Decimal(100),
    ]


def test_an_action_that_no_factor_undoes_silences_a_share_for_sixty_sessions(
    artefact: Artefact, planted: pl.DataFrame, last: date
) -> None:
    sessions = planted["session"].unique().sort()
    for back, reasons in ((1, ["unadjusted_action"]), (60, ["unadjusted_action"]), (61, None)):
        told = answer_session(artefact, planted, last, {"SIM03": sessions[-back]}).predictions
        assert (told["SIM03"].reasons == reasons) if reasons else ("unadjusted_action" not in told["SIM03"].reasons)
        assert "unadjusted_action" not in told["SIM04"].reasons
