"""The page of one backtest: figures turned into sentences, tables and drawings; what it looks like is in templates/."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from backend.backtest.report import charts, formats
from backend.backtest.report.bootstrap import Estimate
from backend.backtest.report.charts import Line, Mark
from backend.backtest.report.metrics import drawdowns, growth
from backend.backtest.report.series import Floats
from backend.backtest.report.summary import Analysed
from backend.backtest.report.trades import entered, entry_day, exit_day, exit_name, net_pnl, net_return, sessions_held
from backend.backtest.report.verdict import idle_words
from backend.backtest.result import BacktestResult, Prices, TradeRecord
from backend.backtest.spec import ENTRIES_PER_DAY_DEFAULT, Proceeds
from backend.domain.calendar import IST
from backend.domain.corporate_actions import CorporateAction, ratio_of
from backend.domain.reasons import NEXT_STEP, Reason
from contracts.market import Interval

TRADES_LISTED_MAX, TRADES_LISTED_MIN = 500, 100
"""Trades in the list of a page, shared by its traders, but never fewer for one."""
PRICE_CHARTS_MAX, TRADES_MARKED_MAX = 60, 2500
"""Price charts of a page and trades marked on them, shared by its traders."""
MARK_LETTERS_MAX = 25
EXIT_LETTERS = {
    "target": "T",
    "stop": "S",
    "horizon": "H",
    "opposite_signal": "O",
    "square_off": "Q",
    "kill_switch": "K",
    "external": "X",
}
COMPARED = (
    "total_return", "cagr", "volatility", "sharpe", "sortino", "calmar", "max_drawdown", "exposure", "turnover",
    "hit_rate", "profit_factor", "expectancy_rupees", "alpha", "beta",
)  # fmt: skip
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def environment() -> Environment:
    """The templates, with everything escaped that is not drawn here."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=unbroken,
    )
    found.globals |= {"f": formats, "months": MONTHS}
    found.filters |= {"words": formats.words, "heat": heat}
    return found


def unbroken(value: Any) -> Any:
    """Text in which no line ends between a number and its sign or unit."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.replace(" %", "\u00a0%").replace("−₹", "−\u2060₹")


def heat(value: float | None) -> Markup:
    """A heatmap cell's colour: blue for a gain, orange for a loss, full at 10 % a month."""
    if value is None or abs(value) < 0.0005:
        return Markup("")
    share = round(min(abs(value) / 0.10, 1.0) * 55 + 8)
    return Markup(" style='background:color-mix(in srgb, var(--{}) {}%, transparent)'").format(
        "gain" if value > 0 else "loss", share
    )


def run_page(
    result: BacktestResult,
    summary: Mapping[str, Any],
    analysed: Sequence[Analysed],
    actions: Sequence[CorporateAction],
) -> str:
    """The whole page. `actions` bring the trades' prices to the scale of the closes they are drawn on."""
    closes = Closes(result.prices, actions)
    room, when = room_for(len(analysed)), "%Y-%m-%d" if result.spec.interval is Interval.DAY_1 else "%Y-%m-%d %H:%M"
    views = [trader_view(one, closes, f"t{number}", when, room) for number, one in enumerate(analysed)]
    return (
        environment()
        .get_template("run.html.j2")
        .render(
            asked=summary,
            title=title_of(summary),
            traders=views,
            together=_together(analysed) if len(analysed) > 1 else None,
            idle=idle_words(summary["idle"]),
            reproduce=reproduce(summary, [one.summary for one in analysed]),
        )
    )


def title_of(asked: Mapping[str, Any]) -> str:
    return f"Backtest {asked['first']} to {asked['last']}"


@dataclass(frozen=True, slots=True)
class Closes:
    """The closes that trades are drawn on, and the actions since."""

    prices: Prices
    actions: Sequence[CorporateAction]

    def scale_after(self, trade: TradeRecord) -> float:
        """What the trade's prices, which are on the scale of its own last day, count on that of the last session."""
        ended = exit_day(trade) or max(self.prices.days)
        since = (a for a in self.actions if a.symbol == trade.symbol and a.ex_date > ended and not a.flagged)
        return float(1 / ratio_of(since))


@dataclass(frozen=True, slots=True)
class Room:
    """What one trader may take of a page: price charts, trades marked on them, and trades listed."""

    charts: int
    marked: int
    listed: int


def room_for(traders: int) -> Room:
    """An equal share of the page for each of the traders."""
    many = max(traders, 1)
    return Room(
        max(PRICE_CHARTS_MAX // many, 1), TRADES_MARKED_MAX // many, max(TRADES_LISTED_MAX // many, TRADES_LISTED_MIN)
    )


def trader_view(one: Analysed, closes: Closes, name: str, when: str, room: Room) -> dict[str, Any]:
    """Everything the page shows of one trader, already written; `name` is its anchor, `when` the form of an instant."""
    told = one.summary
    trades = sorted(entered(one.found.trades), key=lambda trade: (trade.opened_at or trade.decided_at, trade.number))
    symbols = _symbols(trades, room)
    return {
        "id": name,
        "told": told,
        "figures": figures(told),
        "intervals": {
            key: formats.interval(key, Estimate(**told["metrics"][key]))
            for key in ("total_return", "cagr", "sharpe", "expectancy_rupees")
        },
        "baselines": _baselines(told),
        "equity": _equity(one),
        "drawdown": _drawdown(one),
        "exposure": charts.line_chart(
            "Share of the equity in positions, by session",
            one.series.days,
            [Line("in positions", one.exposure)],
            signed=False,
            area=True,
            base=0.0,
        ),
        "returns": charts.histogram(
            "Net return of each trade",
            np.array([net_return(trade) for trade in trades]),
            lambda value: formats.percent(value, 1),
        ),
        "random": _random(one),
        "price_charts": [(symbol, _prices(symbol, trades, closes, room.marked)) for symbol in symbols],
        "price_charts_left_out": len({trade.symbol for trade in trades}) - len(symbols),
        "tables": [
            ("symbol", "By share", _bars(told["by_symbol"])),
            ("strategy", "By strategy", _bars(told["by_strategy"])),
            ("exit", "By reason of exit", _bars(told["by_exit_reason"], words=True)),
        ],
        "costs": _costs(told["costs"]),
        "denied": [(formats.words(name), many, NEXT_STEP[Reason(name)]) for name, many in told["denied"].items()],
        "trades": [trade_row(trade, one.series.days, when) for trade in trades[: room.listed]],
        "trades_all": len(trades),
    }


def figures(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and interval of each figure of a trader's summary, in the order of the page; for one that is
    withheld the reason instead of the interval."""
    metrics, left_out = told["metrics"], told["withheld"]
    return [
        (
            name,
            formats.figure(key, metrics[key]["value"]),
            left_out.get(key) or formats.interval(key, Estimate(**metrics[key])),
        )
        for key, (name, _) in formats.FIGURES.items()
        if key in metrics
    ]


def _baselines(told: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = told["baselines"]
    rows = [("Universe, bought and held", found["buy_and_hold"]), ("Universe, equal weights", found["equal_weight"])]
    return [(found["benchmark"]["name"], found["benchmark"]), *rows] if told["benchmark_is_index"] else rows


def _equity(one: Analysed) -> Markup:
    start = one.series.start or 1.0
    lines = [
        Line(one.summary["name"], one.series.close / start - 1, 0),
        Line("universe, bought and held", one.held.close / start - 1, 2),
        Line("universe, equal weights", one.equal.close / start - 1, 3),
    ]
    name, returns = one.benchmark
    if one.summary["benchmark_is_index"]:
        lines.insert(1, Line(name, growth(returns)[1:] - 1, 1))
    words = f"Net gain since the start: {one.summary['name']} beside its baselines"
    return charts.line_chart(words, one.series.days, lines, base=0.0)


def _drawdown(one: Analysed) -> Markup:
    lines = [
        Line(one.summary["name"], drawdowns(growth(one.series.returns))[1:], 0),
        Line(one.benchmark[0], drawdowns(growth(one.benchmark[1]))[1:], 1),
    ]
    return charts.line_chart("Below the highest close so far", one.series.days, lines, area=True, base=0.0)


def _together(analysed: Sequence[Analysed]) -> dict[str, Any]:
    """Several traders side by side: one chart of all, one column each."""
    longest = max(analysed, key=lambda one: len(one.series.days))
    sessions = len(longest.series.days)
    lines = [
        Line(one.summary["name"], _padded(one.series.close / (one.series.start or 1.0) - 1, sessions), place % 6)
        for place, one in enumerate(analysed)
    ]
    rows = [
        (formats.FIGURES[key][0], [formats.figure(key, one.summary["metrics"][key]["value"]) for one in analysed])
        for key in COMPARED
        if all(key in one.summary["metrics"] for one in analysed)
        and not all(key in one.summary["withheld"] for one in analysed)
    ]
    return {
        "names": [one.summary["name"] for one in analysed],
        "rows": rows,
        "chart": charts.line_chart("Net gain of each trader", longest.series.days, lines, base=0.0),
    }


def _padded(values: Floats, length: int) -> Floats:
    """Values with a gap where a stopped trader saw no more sessions."""
    return np.concatenate((values, np.full(length - len(values), np.nan)))


def _random(one: Analysed) -> Markup | None:
    if one.random is None:
        return None
    return charts.histogram(
        "Mean net return per trade of random entries",
        one.random.mean_return,
        lambda value: formats.percent(value, 2),
        own=one.random.own_mean_return,
        own_name=one.summary["name"],
    )


def _symbols(trades: Sequence[TradeRecord], room: Room) -> list[str]:
    """The symbols to draw, those with the most trades first, as far as the room for charts and marks goes."""
    counted = Counter(trade.symbol for trade in trades)
    ordered = sorted(counted, key=lambda symbol: (-counted[symbol], symbol))[: room.charts]
    marked = accumulate(counted[symbol] for symbol in ordered)
    return [
        symbol
        for place, (symbol, so_far) in enumerate(zip(ordered, marked, strict=True))
        if place == 0 or so_far <= room.marked
    ]


def _prices(symbol: str, trades: Sequence[TradeRecord], closes: Closes, marked: int) -> Markup:
    """A share's closes with its first trades, as many as may be marked."""
    own = [trade for trade in trades if trade.symbol == symbol]
    prices = closes.prices
    column = prices.symbols.index(symbol) if symbol in prices.symbols else None
    close = prices.close[:, column] if column is not None else np.full(len(prices.days), np.nan)
    place = {day: number for number, day in enumerate(prices.days)}
    marks = [
        mark
        for trade in own[:marked]
        for mark in _marks(trade, place, closes.scale_after(trade), lettered=len(own) <= MARK_LETTERS_MAX)
    ]
    return charts.price_chart(f"{symbol}: closes, {formats.count(len(own), 'trade')}", prices.days, close, marks)


def _marks(trade: TradeRecord, place: Mapping[date, int], scale: float, *, lettered: bool) -> list[Mark]:
    found: list[Mark] = []
    bought, sold = place.get(entry_day(trade)), place.get(exit_day(trade) or date.min)
    if bought is not None and trade.entry_price:
        words = f"Bought {entry_day(trade)}: {trade.entry_quantity} at {formats.rupees(trade.entry_price, 2)}"
        found.append(Mark(bought, float(trade.entry_price) * scale, True, "", f"{words}, {trade.strategy}"))
    if sold is not None and trade.exit_price:
        name = exit_name(trade)
        words = f"Sold {exit_day(trade)} ({formats.words(name).lower()}) at {formats.rupees(trade.exit_price, 2)}"
        told = f"{words}: {formats.percent(net_return(trade), 2)}"
        letter = EXIT_LETTERS.get(name, "?") if lettered else ""
        found.append(Mark(sold, float(trade.exit_price) * scale, False, letter, told, net_pnl(trade) > 0))
    return found


def _bars(groups: Sequence[Mapping[str, Any]], *, words: bool = False) -> list[dict[str, Any]]:
    """Groups with the width of their bars, in per cent of the largest."""
    most = max((abs(float(group["pnl"])) for group in groups), default=0.0) or 1.0
    return [
        {
            "name": formats.words(group["name"]) if words else group["name"],
            "trades": group["trades"],
            "won": formats.share(group["won"] / group["trades"]),
            "pnl": formats.rupees(group["pnl"], signed=True),
            "charges": formats.rupees(group["charges"]),
            "gain": float(group["pnl"]) >= 0,
            "width": f"{abs(float(group['pnl'])) / most * 100:.1f}",
        }
        for group in groups
    ]


def _costs(costs: Mapping[str, str]) -> list[dict[str, str]]:
    names = {
        "stt": "STT",
        "sebi": "SEBI fee",
        "gst": "GST",
        "dp": "Depository (DP)",
        "exchange_transaction": "Exchange",
    }
    most = max((float(amount) for kind, amount in costs.items() if kind != "total"), default=0.0) or 1.0
    return [
        {
            "name": names.get(kind, formats.words(kind)),
            "amount": formats.rupees(amount, 2),
            "width": f"{float(amount) / most * 100:.1f}",
        }
        for kind, amount in costs.items()
        if kind != "total"
    ]


def trade_row(trade: TradeRecord, days: Sequence[date], when: str) -> dict[str, Any]:
    """One line of the trade list; `when` is the form of an instant."""
    bought = trade.opened_at or trade.decided_at
    pnl = net_pnl(trade)
    return {
        "number": trade.number,
        "symbol": trade.symbol,
        "strategy": trade.strategy,
        "bought": f"{bought.astimezone(IST):{when}}",
        "sold": f"{trade.closed_at.astimezone(IST):{when}}" if trade.closed_at else formats.NONE,
        "shares": formats.grouped(trade.entry_quantity),
        "entry": formats.rupees(trade.entry_price, 2),
        "exit": formats.rupees(trade.exit_price, 2),
        "reason": formats.words(exit_name(trade)),
        "held": sessions_held(trade, days),
        "charges": formats.rupees(trade.charges, 2),
        "pnl": formats.rupees(pnl, 2, signed=True),
        "return": formats.percent(net_return(trade), 2),
        "gain": pnl > Decimal(0),
    }


def reproduce(asked: Mapping[str, Any], traders: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that run it again, one per trader; what stands at the command's own default is left out."""
    fills = asked["fills"]
    shared = [f"--from {asked['first']} --to {asked['last']}"]
    shared += [f"--universe {quote(asked['universe'])}"] if asked["universe"] else []
    shared += [f"--interval {asked['interval']}"] if asked["interval"] != Interval.DAY_1 else []
    shared += [f"--latency-bars {fills['latency_bars']}"] if fills["latency_bars"] else []
    shared += [f"--proceeds {fills['proceeds']}"] if fills["proceeds"] != Proceeds.AT_ONCE else []
    shared += [f"--slippage-bps {fills['slippage'] * 10_000:g} --participation {fills['participation']:g}"]
    shared += [f"--environment {asked['environment']}"]
    return [" ".join(("sauda backtest", *_trader_options(one), *shared)) for one in traders]


def _trader_options(one: Mapping[str, Any]) -> list[str]:
    options = [f"--mode {one['mode']} --capital {Decimal(one['capital']).normalize():f} --product {one['product']}"]
    options += [f"--strategies {quote(','.join(one['strategies']))}"] if one["strategies"] else []
    most = one["entries_per_day_max"]
    return options + ([f"--entries-per-day {most}"] if most != ENTRIES_PER_DAY_DEFAULT else [])
