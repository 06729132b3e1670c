"""The exchange's free text becomes exact ratios and amounts, and no announcement is lost on the way."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import prod
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.market import ADJUSTING_KINDS, ActionKind
from data_service.actions import FeedError, parse_feed, parse_subject, unreadable_rows
from data_service.store.schemas import ACTION_KEY, ACTION_SCHEMA

SPLIT, BONUS, DIVIDEND, OTHER = ActionKind.SPLIT, ActionKind.BONUS, ActionKind.DIVIDEND, ActionKind.OTHER
RIGHTS, DEMERGER, MERGER = ActionKind.RIGHTS, ActionKind.DEMERGER, ActionKind.MERGER
SHARED_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
FEED = SHARED_DATA / "corporate_actions_2019_2024.csv"
FACTORS = SHARED_DATA / "split_bonus_factors_2019_2024.csv"
needs_data = pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared market data folder is absent")


def parsed(text: str, face_value: str | None = None) -> list[tuple]:
    """(kind, shares before, shares after, paise) of each action."""
    actions = parse_subject(text, Decimal(face_value) if face_value else None)
    return [(action.kind, action.shares_before, action.shares_after, action.amount_paise) for action in actions]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("Face Value Split (Sub-Division) - From Rs 10/- Per Share To Rs 2/- Per Share", 1, 5),
        ("Face Value Split (Sub-Division) - From Rs10/- Per Share To Re 1/- Per Share", 1, 10),
        ("Face Value Split (Sub-Division) - From Rs 5 Per Share To Rs 2 Per Share", 2, 5),
        ("Stock  Split From Rs.10/- to Rs.2.50/-", 1, 4),
        ("Split from Rs 10/ to Rs 5/", 1, 2),
        ("Consolidation Of Shares From Re 1/- Per Share To Rs 10/- Per Share", 10, 1),
    ],
)
def test_a_split_or_consolidation_is_the_ratio_of_the_face_values(text, before, after):
    assert parsed(text) == [(SPLIT, before, after, None)]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("Bonus 1:1", 1, 2),
        (" Bonus 3:1", 1, 4),
        ("Bonus  1: 4", 4, 5),
        ("Bonus- 2:3", 3, 5),
        ("Bonus issue 1:100", 100, 101),
    ],
)
def test_a_bonus_adds_a_new_shares_for_every_b_held(text, before, after):
    assert parsed(text) == [(BONUS, before, after, None)]


@pytest.mark.parametrize(
    ("text", "paise"),
    [
        ("Dividend - Rs 6.50 Per Share", 650),
        ("Interim Dividend - Re 1 Per Share", 100),
        ("Interim Dividend - Rs. 0.50 Per Share", 50),
        ("Dividend - Rs 0 .70 Per Share", 70),
        ("Interim Divdend - Rs 3 Per Share", 300),
        ("Interim Dividned - Rs 3 Per Share", 300),
        ("Specia Ldividend - Rs 850 Per Share", 85_000),
        ("Annual General Me0etingdividend - Rs 1.2 Per Share", 120),
        ("Int Div-Rs 2 Per Sh", 200),
        ("Dividend - Rs Per 3.29 Unit", 329),
        ("Rs 2.49 Dividend Per Unit", 249),
        ("Re. 1.06 Per Unit As Dividend", 106),
        ("Dividend - Re 0.781 Per Unit", 78),
        ("Dividend - Re 0.005 Per Share", 1),
        ("Dividend - 25% Per Share", 125),
        ("Dividend - Rs Per Share", None),
        ("Interim Dividend", None),
    ],
)
def test_a_dividends_amount_is_paise_per_share(text, paise):
    assert parsed(text, face_value="5") == [(DIVIDEND, None, None, paise)]


def test_per_cent_of_an_unknown_face_value_is_no_amount():
    assert parsed("Dividend - 25%") == [(DIVIDEND, None, None, None)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Rights 1:15 @ Premium Rs 1247", RIGHTS),
        ("Rights:14 Compulosry Convertible Debentures For Every 15 Equity Shares", RIGHTS),
        ("Rights 4:5@ Premium Rs 2/- With 1 Warrants For 5 Equity Shares", RIGHTS),
        ("Demerger", DEMERGER),
        ("De-Merger", DEMERGER),
        ("Spin Off", DEMERGER),
        ("Composite Scheme Of Arrangement", DEMERGER),
        ("Scheme Of Amalgamation", MERGER),
        ("Capital Reduction Pursuant To Nclt Order", ActionKind.CAPITAL_REDUCTION),
        ("Buy Back", OTHER),
        ("Scheme Of Arangement- Bonus - 1 Debenture For 1 Equity Share Held", OTHER),
        ("Bonus Ncrps 1:116", OTHER),
        ("Bonus", OTHER),
        ("Bonus 1:0", OTHER),
        ("Bonus 0:1", OTHER),
        ("Face Value Split", OTHER),
        ("Face Value Split From Rs 10/- To Rs 10/-", OTHER),
        ("Face Value Split From Rs 10/- To Rs 0/-", OTHER),
        ("Something Never Seen", OTHER),
        ("", OTHER),
    ],
)
def test_what_no_ratio_can_undo_keeps_its_kind_and_has_no_ratio(text, kind):
    assert parsed(text) == [(kind, None, None, None)]


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        (
            "Bonus 1:1/Face Value Split (Sub-Division) - From Rs 2/- Per Share To Re 1/- Per Share",
            [(BONUS, 1, 2, None), (SPLIT, 1, 2, None)],
        ),
        ("Merger/Demerger", [(MERGER, None, None, None), (DEMERGER, None, None, None)]),
        (
            "Annual General Meeting/Dividend - Rs 5 Per Share And Special Dividend - Rs 2.50 Per Share",
            [(OTHER, None, None, None), (DIVIDEND, None, None, 500), (DIVIDEND, None, None, 250)],
        ),
        ("Dividend - Rs 1 Per Share Special Dividend 2 Per Share", [(DIVIDEND, *2 * [None], n) for n in (100, 200)]),
        ("Dividend - Re 1 Per Sh Special Dividend - Rs 2 Per Sh", [(DIVIDEND, *2 * [None], n) for n in (100, 200)]),
        (
            "Agm/Spl Div- Rs.5/- Div-3/-",
            [(OTHER, None, None, None), (DIVIDEND, None, None, 500), (DIVIDEND, None, None, 300)],
        ),
        (
            "Distribution Rs 2.7 Per Unitconsists Of Dividend - Rs 1.11 Per Unit/Interst Amount - Re 0.5 Per Unit",
            [(OTHER, None, None, None), (DIVIDEND, None, None, 111), (OTHER, None, None, None)],
        ),
    ],
)
def test_one_subject_may_hold_several_actions(text, actions):
    assert parsed(text) == actions


@given(st.text(max_size=60))
def test_no_text_is_lost_or_breaks_the_parser(text):
    actions = parse_subject(text)
    assert actions
    for action in actions:
        assert action.kind not in ADJUSTING_KINDS or (action.shares_before and action.shares_after)


def feed(**columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(columns)


NSE_EXPORT = {
    "SYMBOL": ["abc", "ABC", "ABC", "DEBT", "ABC", "NODATE", " "],
    "COMPANY NAME": ["A", "A", "A", "D", "A", "N", "S"],
    "SERIES": ["EQ", "EQ", " EQ ", "N5", "E1", "EQ", "EQ"],
    "PURPOSE": ["Bonus 1:1", "Bonus 1:1", " Bonus  1:1", "Bonus 1:1", "Bonus 1:1", "Dividend", "Dividend"],
    "FACE VALUE": ["10", "10", "10", "1000", "10", "10", "10"],
    "EX-DATE": ["05-Jan-2021"] * 5 + ["-", "05-Jan-2021"],
    "RECORD DATE": ["-"] * 7,
}


def test_the_exchanges_export_is_read_in_its_other_spelling_and_repeats_collapse():
    actions = parse_feed(pl.DataFrame(NSE_EXPORT), "nse")
    assert actions.schema == ACTION_SCHEMA
    assert actions.select("symbol", "isin", "kind", "shares_after", "source").rows() == [
        ("ABC", None, "bonus", 2, "nse"),
        ("DEBT", None, "other", None, "nse"),
        ("ABC", None, "other", None, "nse"),
    ]
    assert set(actions["ex_date"]) == set(actions["known_on"]) == {date(2021, 1, 5)}
    assert unreadable_rows(pl.DataFrame(NSE_EXPORT)) == [(5, "ex-date - cannot be read"), (6, "there is no symbol")]


@pytest.mark.parametrize("text", ["2021-01-05", "05-Jan-2021", "05 Jan 2021", "05-01-2021", "05/01/2021"])
def test_ex_dates_are_read_in_the_feeds_forms(text):
    frame = feed(symbol=["A"], exDate=[text], subject=["Bonus 1:1"])
    assert parse_feed(frame, "bse")["ex_date"].to_list() == [date(2021, 1, 5)]


def test_a_feed_without_its_columns_is_refused():
    with pytest.raises(FeedError, match="ex_date, subject"):
        parse_feed(feed(symbol=["A"], purp=["Bonus 1:1"]), "nse")


@pytest.fixture(scope="module")
def real_actions() -> pl.DataFrame:
    return parse_feed(pl.read_csv(FEED, infer_schema_length=0), "nse")


@needs_data
def test_every_row_of_the_real_feed_is_read_once(real_actions):
    raw = pl.read_csv(FEED, infer_schema_length=0)
    assert unreadable_rows(raw) == []
    told = raw.select("symbol", ex_date=pl.col("exDate").str.to_date())
    assert told.join(real_actions, on=["symbol", "ex_date"], how="anti").is_empty()
    assert real_actions.select(ACTION_KEY).is_unique().all()
    counts = dict(real_actions["kind"].value_counts().rows())
    adjusting = {"split": 219, "bonus": 226}
    flagged = {"rights": 167, "demerger": 68, "merger": 2, "capital_reduction": 3}
    assert {kind: counts[kind] for kind in adjusting | flagged} == adjusting | flagged


@needs_data
def test_dividends_without_an_amount_are_those_whose_text_has_no_number(real_actions):
    dividends = real_actions.filter(pl.col("kind") == "dividend")
    silent = dividends.filter(pl.col("amount_paise").is_null())
    assert not silent["subject"].str.contains(r"\d").any()
    assert (len(dividends), len(silent)) == (7963, 14)


@needs_data
def test_all_factors_of_the_independent_file_are_reproduced_and_no_others_exist(real_actions):
    ratios: dict[tuple[str, date], list[Fraction]] = {}
    adjusting = real_actions.filter(pl.col("kind").is_in([kind.value for kind in ADJUSTING_KINDS]))
    for symbol, ex_date, before, after in adjusting.select("symbol", "ex_date", "shares_before", "shares_after").rows():
        ratios.setdefault((symbol, ex_date), []).append(Fraction(before, after))
    expected = pl.read_csv(FACTORS, try_parse_dates=True)
    assert len(expected) == 421
    found = {key: float(prod(parts)) for key, parts in ratios.items()}
    assert found == pytest.approx({(symbol, day): factor for symbol, day, factor, _ in expected.rows()}, rel=1e-12)
