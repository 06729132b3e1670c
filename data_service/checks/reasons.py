"""What can be wrong with a bar or a quote, as the words that findings and metrics use."""

from enum import StrEnum


class BarReason(StrEnum):
    """Why a bar was kept out or flagged."""

    MISSING_VALUE = "missing_value"
    NON_POSITIVE = "non_positive"
    NEGATIVE_VOLUME = "negative_volume"
    TOO_LARGE = "too_large"
    OHLC_INCONSISTENT = "ohlc_inconsistent"
    CLOSED_DAY = "closed_day"
    OUTSIDE_SESSION = "outside_session"
    OFF_GRID = "off_grid"
    UNFINISHED = "unfinished"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    OUT_OF_ORDER = "out_of_order"
    PHANTOM_FLAT = "phantom_flat"
    ZERO_VOLUME = "zero_volume"
    HUNDREDFOLD = "hundredfold"
    OUTLIER = "outlier"
    SOURCE_DISAGREEMENT = "source_disagreement"
    FROZEN = "frozen"
    MISSING_SESSION = "missing_session"
    OPENING_VOLUME_MISSING = "opening_volume_missing"
    ACTION_UNCONFIRMED = "action_unconfirmed"
    UNADJUSTED_ACTION = "unadjusted_action"


class QuoteReason(StrEnum):
    """Why a quote was refused."""

    NO_PRICE = "no_price"
    NO_INSTANT = "no_instant"
    NOT_A_NUMBER = "not_a_number"
    NON_POSITIVE = "non_positive"
    TOO_LARGE = "too_large"
    FINER_THAN_PAISA = "finer_than_paisa"
    OFF_TICK = "off_tick"
    NEGATIVE_VOLUME = "negative_volume"
    CROSSED = "crossed"
    OUTSIDE_DAY_RANGE = "outside_day_range"
    OUTSIDE_BAND = "outside_band"
    HUNDREDFOLD = "hundredfold"
    FROM_FUTURE = "from_future"
    STALE = "stale"
    WENT_BACK = "went_back"
    VOLUME_FELL = "volume_fell"
    FROZEN = "frozen"
