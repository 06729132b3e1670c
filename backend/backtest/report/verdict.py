"""What a reader may conclude and what not, in plain sentences made of the figures alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.backtest.report.formats import count, grouped, number, p_value, percent, rupees, share, words
from backend.backtest.report.metrics import SESSIONS_PER_YEAR

EPISODES_MIN = 20
"""As many separate episodes as a model needs to be certified for a mode: fewer prove nothing."""
SURE = 0.95
CHANCE_MAX = 0.05
COSTS_SHARE_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence; `tone`: good (it speaks for the trader), bad (against) or caution (nothing may be concluded)."""

    tone: str
    text: str


def verdict(trader: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Statement]:
    """The statements on one trader's summary, the most important first; the first one is the bottom line."""
    found = [*_money(trader), *_chance(trader), *_benchmark(trader), *_tries(trader), *_costs(trader)]
    found = [*_market(asked), *enough(trader), *_stranded(trader), *borne_out(found, trader)]
    return [_bottom_line(trader, found), *found]


def borne_out(found: Sequence[Statement], trader: Mapping[str, Any]) -> list[Statement]:
    """The statements, none of them in the trader's favour where there were too few episodes to tell skill from luck."""
    if trader["trades"]["episodes"] >= EPISODES_MIN:
        return list(found)
    few = ", but so few episodes do not bear it out."
    return [Statement("caution", one.text.removesuffix(".") + few) if one.tone == "good" else one for one in found]


def _bottom_line(trader: Mapping[str, Any], found: list[Statement]) -> Statement:
    if not trader["trades"]["entered"]:
        return Statement("caution", "It did not trade: there is nothing to judge.")
    if any(one.tone == "bad" for one in found):
        return Statement("bad", "Nothing here shows an edge: do not expect it to earn money on this evidence.")
    if any(one.tone == "caution" for one in found):
        return Statement("caution", "The evidence is not enough to expect the same again.")
    return Statement("good", "The figures speak for an edge in these days. Whether it lasts, no past can show.")


def _market(asked: Mapping[str, Any]) -> list[Statement]:
    found: list[Statement] = []
    if asked["environment"] == "simulated":
        text = "The market is simulated: what was earned here says nothing about a real one."
        found.append(Statement("caution", text))
    if asked["interrupted"]:
        found.append(Statement("caution", "It was stopped before its last session: the figures are of a part."))
    return found


def enough(trader: Mapping[str, Any]) -> list[Statement]:
    """Whether there was enough to see, in episodes."""
    trades = trader["trades"]
    if not trades["entered"]:
        return []
    seen = f"{count(trades['entered'], 'trade')} in {count(trades['episodes'], 'separate episode')}"
    if trades["episodes"] < EPISODES_MIN:
        return [Statement("caution", f"{seen}: too few to tell skill from luck (at least {EPISODES_MIN} are needed).")]
    return [Statement("good", f"{seen}: enough for the intervals to mean something.")]


def _stranded(trader: Mapping[str, Any]) -> list[Statement]:
    left = trader["stranded"]
    if not left:
        return []
    value = sum(float(held["value"]) for held in left)
    equity = float(trader["equity"])
    part = f" ({share(value / equity)})" if equity > 0 else ""
    text = f"{rupees(value)} of the equity{part} is in {count(len(left), 'share')} that stopped trading"
    return [Statement("caution", f"{text}: it counts at a last price at which nobody could sell.")]


def _money(trader: Mapping[str, Any]) -> list[Statement]:
    expectancy, sharpe = trader["metrics"]["expectancy_rupees"], trader["metrics"]["sharpe"]
    found: list[Statement] = []
    if expectancy["low"] is not None:
        reach = f"{rupees(expectancy['low'], signed=True)} to {rupees(expectancy['high'], signed=True)}"
        text = f"A closed trade earned {rupees(expectancy['value'], signed=True)} on average, 95 % interval {reach}"
        found.append(_against_zero(expectancy, text))
    if sharpe["low"] is not None:
        reach = f"{number(sharpe['low'])} to {number(sharpe['high'])}"
        found.append(_against_zero(sharpe, f"The Sharpe ratio is {number(sharpe['value'])}, 95 % interval {reach}"))
    return found


def _against_zero(estimate: Mapping[str, float], text: str) -> Statement:
    if estimate["low"] > 0:
        return Statement("good", f"{text}: above zero.")
    if estimate["high"] < 0:
        return Statement("bad", f"{text}: below zero.")
    return Statement("caution", f"{text}: zero lies inside, so a gain cannot be told from none.")


def _chance(trader: Mapping[str, Any]) -> list[Statement]:
    random = trader["baselines"]["random_entries"]
    if random is None:
        return []
    p = random["p_mean_return"]
    text = (
        f"Random entries with the same exits and costs did as well or better in {share(p)} of "
        f"{random['draws']} draws ({p_value(p)})"
    )
    if p < CHANCE_MAX:
        return [Statement("good", f"{text}: picking these entries was better than chance.")]
    tone = "bad" if p > 0.5 else "caution"
    return [Statement(tone, f"{text}: the entries cannot be told from chance.")]


def _benchmark(trader: Mapping[str, Any]) -> list[Statement]:
    if not trader["trades"]["entered"]:
        return []
    own, held = trader["metrics"]["total_return"]["value"], trader["baselines"]["buy_and_hold"]
    found: list[Statement] = []
    if own is not None and held is not None and held["total_return"] is not None:
        text = f"Buying the universe on the first day and holding it came to {percent(held['total_return'])}"
        worse = own < held["total_return"]
        exposed = share(trader["metrics"]["exposure"]["value"])
        told = f"{text}, the trader to {percent(own)} with {exposed} of the money in shares on average."
        found.append(Statement("caution" if worse else "good", told))
    alpha = trader["metrics"].get("alpha")
    if alpha is not None and alpha["low"] is not None and alpha["low"] <= 0 <= alpha["high"]:
        reach = f"{percent(alpha['low'])} to {percent(alpha['high'])}"
        found.append(
            Statement("caution", f"Alpha against {trader['benchmark']} is uncertain in sign ({reach} a year).")
        )
    return found


def _tries(trader: Mapping[str, Any]) -> list[Statement]:
    sure = trader["overfitting"]
    found: list[Statement] = []
    needed = sure["track_record_sessions_min"]
    if needed is not None and needed > trader["sessions"]:
        years = number(needed / SESSIONS_PER_YEAR, 1)
        text = f"A Sharpe ratio like this needs {grouped(round(needed))} sessions ({years} years) to be told from zero"
        found.append(Statement("caution", f"{text}; there are {grouped(trader['sessions'])}."))
    deflated, trials = sure["deflated_sharpe"], sure["trials"]
    if deflated is not None and trials > 1:
        tries = count(trials, "try", "tries")
        text = f"Allowing for {tries}, the Sharpe ratio is real with probability {share(deflated)}"
        found.append(Statement("good" if deflated >= SURE else "caution", f"{text} (deflated Sharpe ratio)."))
    return found


def _costs(trader: Mapping[str, Any]) -> list[Statement]:
    gross, paid = trader["pnl"]["before_charges"], trader["costs"]["total"]
    if not trader["trades"]["entered"] or float(paid) <= 0:
        return []
    if float(gross) <= 0:
        return [Statement("bad", f"It lost money even before {rupees(paid)} of charges.")]
    part = float(paid) / float(gross)
    if part >= 1:
        return [Statement("bad", f"Charges of {rupees(paid)} were more than all it earned before them.")]
    text = f"Charges took {share(part)} of what it earned before them ({rupees(paid)})."
    return [Statement("good" if part < COSTS_SHARE_MAX else "caution", text)]


def idle_words(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """Reasons in words, the most frequent first."""
    return [(words(name), many) for name, many in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))]
