"""Kite's binary ticks, packed: big-endian, prices in paise, a message of several packets. Pure.

Source: kite.trade/docs/connect/v3/websocket; the layout of the mocks ticker_quote.packet and ticker_full.packet.
"""

import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from contracts.market import Quote

Mode = Literal["ltp", "quote", "full"]
MODES: tuple[Mode, ...] = ("ltp", "quote", "full")
HEARTBEAT = b"\x00"
SEGMENT_INDICES = 9
DEPTH_LEVELS = 5

_LTP = struct.Struct(">II")
_INDEX = struct.Struct(">IIIIIIi")
_QUOTE = struct.Struct(">11I")
_TIMES = struct.Struct(">5I")
_LEVEL = struct.Struct(">IIHH")


def packet(token: int, quote: Quote, mode: Mode, offered: int) -> bytes:
    """One instrument's tick: 8 bytes of its last price, 44 of its quote, 184 with times and depth; an index's quote
    has 28, with its time 32.

    Args:
        offered: shares that an order could take at the best bid or ask: all that is known of the depth.
    """
    last = paise(quote.last)
    if mode == "ltp":
        return _LTP.pack(token, last)
    opened, high, low, close = (paise(p) for p in (quote.open, quote.high, quote.low, quote.previous_close))
    at = int(quote.as_of.timestamp())
    if token & 0xFF == SEGMENT_INDICES:
        index = _INDEX.pack(token, last, high, low, opened, close, last - close)
        return index if mode == "quote" else index + struct.pack(">I", at)
    # The last trade's size and the day's average price are not known: 0, and the last price.
    body = _QUOTE.pack(token, last, 0, last, _count(quote.volume), offered, offered, opened, high, low, close)
    if mode == "quote":
        return body
    bid, ask = (_side(price, offered) for price in (quote.bid, quote.ask))
    return body + _TIMES.pack(at, 0, 0, 0, at) + bid + ask


def message(packets: Sequence[bytes]) -> bytes:
    """Several ticks in one message: their count, and each after its length."""
    return struct.pack(">H", len(packets)) + b"".join(struct.pack(">H", len(p)) + p for p in packets)


def paise(rupees: Decimal) -> int:
    return _count(int((rupees * 100).to_integral_value()))


def _side(price: Decimal, offered: int) -> bytes:
    best = _LEVEL.pack(_count(offered), paise(price) if offered else 0, 1 if offered else 0, 0)
    return best + bytes(_LEVEL.size) * (DEPTH_LEVELS - 1)


def _count(number: int) -> int:
    return min(max(number, 0), 0xFFFFFFFF)
