"""Reads data_service's quote histories: Arrow in, columns per share out, refused where they are not whole."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import ValidationError

from backend.errors import UpstreamError
from contracts.market import QuoteHistoryHead, QuoteHistoryRequest

COLUMNS = (
    *("start", "end", "open", "high", "low", "close", "volume"),
    *("previous_close", "lower_band", "upper_band", "tick", "lot", "freeze_quantity"),
)
SCHEMA = pl.Schema({"symbol": pl.String} | dict.fromkeys(COLUMNS, pl.Int64) | {"has_derivatives": pl.Boolean})
POSITIVE = ("open", "high", "low", "close", "previous_close", "lower_band", "upper_band", "tick", "lot")

Column = npt.NDArray[np.int64 | np.bool_]


@dataclass(frozen=True, slots=True)
class QuoteHistory:
    """A reply: its head, and per share the columns of contracts.market.QUOTE_HISTORY_ARROW, oldest first."""

    head: QuoteHistoryHead
    shares: Mapping[str, Mapping[str, Column]]


def read_quote_history(content: bytes, request: QuoteHistoryRequest) -> QuoteHistory:
    """The answer to a request.

    Raises:
        UpstreamError: it is not of the contract's shape, answers another question, or is cut off.
    """
    size = int.from_bytes(content[:4], "big")
    try:
        head = QuoteHistoryHead.model_validate_json(content[4 : 4 + size])
        table = pl.read_ipc_stream(io.BytesIO(content[4 + size :]))
    except (ValidationError, pl.exceptions.PolarsError, OSError) as error:
        raise UpstreamError("data_service's quote history cannot be read") from error
    if table.schema != SCHEMA:
        raise UpstreamError(f"data_service's quote history has the columns {', '.join(table.columns)}")
    if head.interval is not request.interval or head.as_of != request.as_of:
        raise UpstreamError("data_service's quote history answers another question")
    if table.select((pl.min_horizontal(POSITIVE) <= 0).any()).item():
        raise UpstreamError("data_service's quote history holds a price, tick or lot that is not positive")
    shares = {
        str(symbol): {name: rows[name].to_numpy() for name in table.columns if name != "symbol"}
        for (symbol,), rows in table.partition_by("symbol", as_dict=True, maintain_order=True).items()
    }
    # A stream that was cut off between two batches is still a stream.
    if shares.keys() | head.missing.keys() != set(request.symbols):
        raise UpstreamError("data_service's quote history lacks shares that were asked for")
    if any((np.diff(columns["start"]) <= 0).any() for columns in shares.values()):
        raise UpstreamError("data_service's quote history is not in the order of time")
    return QuoteHistory(head, shares)
