"""A quote history is read whole or refused: cut off, of other columns, another question, out of order, not positive."""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pytest

from backend.domain.calendar import IST
from backend.errors import UpstreamError
from backend.services.quote_history import COLUMNS, read_quote_history
from contracts.common import Environment
from contracts.market import Interval, QuoteHistoryHead, QuoteHistoryRequest
from data_service.quote_history import quote_history_arrow

AS_OF = datetime(2024, 3, 21, 9, tzinfo=IST)
REQUEST = QuoteHistoryRequest(
    symbols=["TCS", "NONE"],
    interval=Interval.DAY_1,
    from_=date(2024, 3, 18),
    through=date(2024, 3, 20),
    as_of=AS_OF,
)
Shares = dict[str, dict[str, np.ndarray]]


def head(**changed: object) -> QuoteHistoryHead:
    said = {
        "environment": Environment.PAPER,
        "as_of": AS_OF,
        "provider": "recorded",
        "interval": Interval.DAY_1,
        "half_spread_bp": Decimal("1.25"),
        "missing": {"NONE": "unknown symbol"},
    }
    return QuoteHistoryHead.model_validate(said | changed)


def shares(**changed: list[int]) -> Shares:
    rows = {name: np.array([100 + place, 200 + place, 300 + place]) for place, name in enumerate(COLUMNS)}
    columns = rows | {name: np.array(values) for name, values in changed.items()}
    return {"TCS": columns | {"has_derivatives": np.array([True, False, True])}}


def test_columns_come_as_they_were_sent() -> None:
    sent = shares()
    found = read_quote_history(quote_history_arrow(head(), sent), REQUEST)
    assert found.head == head()
    assert set(found.shares) == {"TCS"}
    for name, values in sent["TCS"].items():
        assert found.shares["TCS"][name].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lambda: quote_history_arrow(head(), shares())[:-200], "cannot be read|lacks shares"),
        (lambda: b"", "cannot be read"),
        (lambda: b"\x00\x00\x00\x02{}", "cannot be read"),
        (lambda: quote_history_arrow(head(), {"TCS": shares()["TCS"] | {"tick": np.array([1.5] * 3)}}), "columns"),
        (lambda: quote_history_arrow(head(interval="5m"), shares()), "another question"),
        (lambda: quote_history_arrow(head(as_of=AS_OF.replace(day=20)), shares()), "another question"),
        (lambda: quote_history_arrow(head(missing={}), shares()), "lacks shares"),
        (lambda: quote_history_arrow(head(), shares(tick=[5, 0, 5])), "not positive"),
        (lambda: quote_history_arrow(head(), shares(previous_close=[-1, 5, 5])), "not positive"),
        (lambda: quote_history_arrow(head(), shares(start=[3, 2, 5])), "order of time"),
        (lambda: quote_history_arrow(head(), shares(start=[3, 3, 5])), "order of time"),
    ],
)
def test_anything_else_is_refused(tamper: Callable[[], bytes], why: str) -> None:
    with pytest.raises(UpstreamError, match=why):
        read_quote_history(tamper(), REQUEST)
