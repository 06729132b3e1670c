"""Numbers and names as a reader in India expects them: lakhs grouped, signs shown, a dash for what does not exist."""

from decimal import ROUND_HALF_UP, Decimal

from backend.backtest.report.bootstrap import Estimate

NONE = "–"
_LAKH, _CRORE = 100_000, 10_000_000


def grouped(whole: int) -> str:
    """1234567 as 12,34,567: the last three digits, then pairs."""
    digits = str(abs(whole))
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(end - 2, 0) : end] for end in range(len(head), 0, -2)][::-1]
    return ("−" if whole < 0 else "") + ",".join([*pairs, tail])


def rupees(amount: Decimal | float | str | None, digits: int = 0, *, signed: bool = False) -> str:
    """₹1,23,456 or, with digits, ₹1,23,456.78."""
    if amount is None:
        return NONE
    exact = Decimal(str(amount)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    whole, fraction = divmod(abs(exact), 1)
    text = f"₹{grouped(int(whole))}" + (f"{fraction:.{digits}f}"[1:] if digits else "")
    return _sign(float(exact), signed=signed) + text


def short_rupees(amount: float) -> str:
    """₹5.2 L or ₹1.3 Cr: for axes."""
    size = abs(amount)
    sign = "−" if amount < 0 else ""
    if size >= _CRORE:
        return f"{sign}₹{size / _CRORE:.3g} Cr"
    if size >= _LAKH:
        return f"{sign}₹{size / _LAKH:.3g} L"
    return sign + "₹" + (grouped(round(size)) if size >= 100 else f"{size:.3g}")


def percent(fraction: float | None, digits: int = 1, *, signed: bool = True) -> str:
    """0.0123 as +1.2 %."""
    if fraction is None:
        return NONE
    shown = round(fraction * 100, digits)
    return f"{_sign(shown, signed=signed)}{abs(shown):,.{digits}f} %"


def share(fraction: float | None) -> str:
    """0.123 as 12 %."""
    return percent(fraction, 0, signed=False)


def number(value: float | None, digits: int = 2) -> str:
    """A plain number with a true minus."""
    if value is None:
        return NONE
    shown = round(value, digits)
    return f"{_sign(shown, signed=False)}{abs(shown):,.{digits}f}"


def p_value(probability: float) -> str:
    """p = .30 or p < .01: never 0, never more digits than it bears."""
    return "p < .01" if probability < 0.01 else "p = " + f"{probability:.2f}".removeprefix("0")


def words(name: str) -> str:
    """stop_loss as Stop loss."""
    return name.replace("_", " ").strip().capitalize() or NONE


def count(number_of: int, one: str, many: str = "") -> str:
    """1 trade, 2 trades."""
    return f"{grouped(number_of)} {one if number_of == 1 else many or one + 's'}"


FIGURES = {
    "total_return": ("Total return", "percent"),
    "cagr": ("CAGR (a year)", "percent"),
    "volatility": ("Volatility (a year)", "plain_percent"),
    "sharpe": ("Sharpe ratio", "number"),
    "sortino": ("Sortino ratio", "number"),
    "calmar": ("Calmar ratio", "number"),
    "max_drawdown": ("Deepest drawdown", "percent"),
    "max_drawdown_sessions": ("… its length, sessions", "whole"),
    "var_95": ("VaR 95 % (a day)", "percent2"),
    "cvar_95": ("CVaR 95 % (a day)", "percent2"),
    "alpha": ("Alpha (a year)", "percent"),
    "beta": ("Beta", "number"),
    "hit_rate": ("Hit rate", "plain_percent"),
    "expectancy_rupees": ("Expectancy, ₹ a trade", "rupees"),
    "expectancy_return": ("Expectancy, % a trade", "percent2"),
    "profit_factor": ("Profit factor", "number"),
    "payoff": ("Payoff ratio", "number"),
    "holding_sessions": ("Held, sessions", "number1"),
    "exposure": ("Exposure (mean)", "plain_percent"),
    "turnover": ("Turnover (a year, × equity)", "number"),
}
"""Each figure's name on the page and how it is written."""


def figure(name: str, value: float | None) -> str:
    """A figure of FIGURES, written its way."""
    match FIGURES[name][1]:
        case "percent":
            return percent(value)
        case "percent2":
            return percent(value, 2)
        case "plain_percent":
            return percent(value, signed=False)
        case "whole":
            return number(value, 0)
        case "number1":
            return number(value, 1)
        case "rupees":
            return rupees(value, signed=True)
        case _:
            return number(value)


def interval(name: str, estimate: Estimate) -> str:
    """Its 95 % interval, "low … high"; a dash where there is none."""
    if estimate.low is None or estimate.high is None:
        return NONE
    return f"{figure(name, estimate.low)} … {figure(name, estimate.high)}"


def _sign(value: float, *, signed: bool) -> str:
    if value < 0:
        return "−"
    return "+" if signed and value > 0 else ""
