"""Drawings as inline SVG: small functions from numbers to markup, every text escaped, every drawing with its words."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from markupsafe import Markup

from backend.backtest.report.formats import percent, rupees, short_rupees
from backend.backtest.report.series import Floats, Ints

WIDTH, HEIGHT = 720, 290
LEFT, RIGHT, TOP, BOTTOM = 90, 14, 14, 34
SHORT_FROM = 100_000
_DRAWN_POINTS_MAX = 400
_TOLD_POINTS_MAX = 260
_DRAWN_POINTS_OF_PRICE, _TOLD_POINTS_OF_PRICE = 240, 120
"""So many points of a line are drawn and so many are told on hovering; of price charts there are many, so they have
fewer. Figures are never made of thinned series."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; `style` is a number of the page's palette."""

    name: str
    values: Floats
    style: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A sign on a price line: at a session's index and a price, "▲" an entry and "▼" an exit, with a letter beside it
    and words for a reader who points at it."""

    place: int
    value: float
    entry: bool
    letter: str
    words: str
    gain: bool | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """From a session's index and a value to the drawing's units."""

    places: int
    low: float
    high: float

    def x(self, place: float | Floats | Ints) -> Floats:
        span = max(self.places - 1, 1)
        return np.asarray(LEFT + np.asarray(place, dtype=np.float64) / span * (WIDTH - LEFT - RIGHT))

    def y(self, value: float | Floats) -> Floats:
        span = self.high - self.low
        return np.asarray(TOP + (self.high - np.asarray(value, dtype=np.float64)) / span * (HEIGHT - TOP - BOTTOM))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover low..high: steps of 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    if not span > 1e-9 * max(abs(low), abs(high), 1e-3):
        span = max(abs(high), 1.0) * 0.1
        low, high = low - span / 2, high + span / 2
    rough = span / about
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= rough * (1 - 1e-9))
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [place * step for place in range(first, last + 1)]


def thinned(values: Floats, limit: int = _DRAWN_POINTS_MAX) -> Ints:
    """Indices of at most about `limit` points: the least and the greatest of each stretch, so that no peak is lost."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) <= limit:
        return known
    parts = np.array_split(known, limit // 2)
    kept = {int(known[0]), int(known[-1])}
    for part in parts:
        kept |= {int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])}
    return np.array(sorted(kept), dtype=np.int64)


def line_chart(
    title: str,
    days: Sequence[date],
    lines: Sequence[Line],
    *,
    signed: bool = True,
    area: bool = False,
    base: float | None = None,
) -> Markup:
    """Lines of fractions over sessions, a value per day, written in per cent; `base` is a level to mark; `area` fills
    the first line to it. Nothing to draw gives a sentence instead."""
    known = [line for line in lines if len(line.values) == len(days) and np.isfinite(line.values).any()]
    if len(days) < 2 or not known:
        return Markup("<p class='none'>Too few sessions to draw.</p>")
    everything = np.concatenate([line.values[np.isfinite(line.values)] for line in known])
    if base is not None:
        everything = np.append(everything, base)
    levels = ticks(float(everything.min()), float(everything.max()))
    scale = Scale(len(days), levels[0], levels[-1])
    parts = [_levels(scale, levels, _percent_text(levels, signed=signed)), _dates(scale, days)]
    if base is not None:
        parts.append(_rule(scale, base))
    if area:
        parts.append(_area(scale, known[0].values, base or 0.0))
    parts += [_path(scale, line.values, f"line c{line.style}") for line in known]
    parts.append(Markup("<line class='hair' y1='{}' y2='{}' x1='-9' x2='-9'/>").format(TOP, HEIGHT - BOTTOM))
    legend = _legend([(line.name, f"c{line.style}") for line in known]) if len(known) > 1 else Markup("")
    return _figure(title, parts, legend, _told(days, known, lambda value: percent(value, 2, signed=signed)))


def price_chart(title: str, days: Sequence[date], close: Floats, marks: Sequence[Mark]) -> Markup:
    """A share's closes in rupees with the entries and exits on it."""
    values = np.append(close[np.isfinite(close)], [mark.value for mark in marks])
    if len(days) < 2 or not np.isfinite(close).any():
        return Markup("<p class='none'>No price to draw.</p>")
    levels = ticks(float(values.min()), float(values.max()))
    scale = Scale(len(days), levels[0], levels[-1])
    written = _price_text(levels)
    parts = [
        _levels(scale, levels, written),
        _dates(scale, days),
        _path(scale, close, "line price", _DRAWN_POINTS_OF_PRICE),
    ]
    parts += [_mark(scale, mark) for mark in marks]
    parts.append(Markup("<line class='hair' y1='{}' y2='{}' x1='-9' x2='-9'/>").format(TOP, HEIGHT - BOTTOM))
    told = _told(days, [Line("close", close)], lambda value: rupees(value, 2), _TOLD_POINTS_OF_PRICE)
    return _figure(title, parts, Markup(""), told)


def histogram(
    title: str, values: Floats, written: Callable[[float], str], *, own: float | None = None, own_name: str = ""
) -> Markup:
    """How often each size of value occurred, and where one of note lies."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Markup("<p class='none'>Nothing to count.</p>")
    spread = np.append(values, own) if own is not None else values
    edges = _edges(spread, len(values))
    counted, _ = np.histogram(values, edges)
    levels = ticks(0, float(max(counted.max(), 1)), 4)
    scale = Scale(len(edges), levels[0], levels[-1])
    parts = [_levels(scale, levels, lambda value: f"{value:,.0f}" if value == round(value) else "")]
    for place, many in enumerate(counted):
        low, high = float(edges[place]), float(edges[place + 1])
        parts.append(
            _bar(scale, place, int(many), f"{written(low)} to {written(high)}: {many}", negative=high <= 1e-12)
        )
    step = max((len(edges) - 1) // 6, 1)
    for place in range(0, len(edges), step):
        parts.append(_below(float(scale.x(place)), written(float(edges[place])), "alt" if place // step % 2 else ""))
    if own is not None:
        at = float(scale.x(np.interp(own, edges, np.arange(len(edges)))))
        parts.append(
            Markup("<line class='own' x1='{0}' x2='{0}' y1='{1}' y2='{2}'><title>{3}</title></line>").format(
                _f(at), TOP, HEIGHT - BOTTOM, f"{own_name} {written(own)}"
            )
        )
    legend = _legend([(f"{own_name}: {written(own)}", "own-key")]) if own is not None else Markup("")
    return _figure(title, parts, legend, None)


def _edges(values: Floats, many: int) -> Floats:
    """Bin edges on round values, zero one of them where it lies inside: gains and losses never share a bin."""
    low, high = float(values.min()), float(values.max())
    return np.array(ticks(low, high, int(np.clip(2 * np.sqrt(many), 6, 24))))


def _f(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _figure(title: str, parts: Sequence[Markup], legend: Markup, told: str | None) -> Markup:
    data = Markup(" data-told='{}'").format(told) if told else Markup("")
    drawn = Markup("").join(parts)
    return Markup(
        "<div class='chart'{data}><svg viewBox='0 0 {w} {h}' role='img' aria-label='{title}'>{drawn}</svg>{legend}"
        "<output class='told' aria-live='polite'></output></div>"
    ).format(data=data, w=WIDTH, h=HEIGHT, title=title, drawn=drawn, legend=legend)


def _legend(names: Sequence[tuple[str, str]]) -> Markup:
    items = Markup("").join(
        Markup(
            "<li><svg viewBox='0 0 30 8' aria-hidden='true'><line class='line {}' x1='0' x2='30' y1='4' y2='4'/></svg>"
            "{}</li>"
        ).format(style, name)
        for name, style in names
    )
    return Markup("<ul class='legend'>{}</ul>").format(items)


def _levels(scale: Scale, levels: Sequence[float], written: Callable[[float], str]) -> Markup:
    return Markup("").join(
        Markup(
            "<line class='grid' x1='{}' x2='{}' y1='{y}' y2='{y}'/><text class='ylab' x='{}' y='{y}'>{}</text>"
        ).format(LEFT, WIDTH - RIGHT, LEFT - 6, written(level), y=_f(float(scale.y(level))))
        for level in levels
    )


def _dates(scale: Scale, days: Sequence[date]) -> Markup:
    """Years where there are three or more, months where there are two, else a few days."""
    years = [place for place, day in enumerate(days) if place == 0 or day.year != days[place - 1].year]
    months = [place for place, day in enumerate(days) if place == 0 or day.month != days[place - 1].month]
    if len(years) > 3:
        places, form = years, "%Y"
    elif len(months) > 2:
        places, form = months, "%Y-%m"
    else:
        places, form = list(range(0, len(days), max(len(days) // 6, 1))), "%m-%d"
    far = (scale.places - 1) / 8
    kept: list[int] = []
    for place in places[::-1]:
        if not kept or kept[-1] - place >= far:
            kept.append(place)
    labels = [
        _below(float(scale.x(place)), days[place].strftime(form), "alt" if number % 2 else "")
        for number, place in enumerate(kept)
    ]
    return Markup("").join(labels)


def _below(x: float, text: str, style: str) -> Markup:
    anchor = "end" if x > WIDTH - RIGHT - 25 else "middle"
    return Markup("<text class='xlab {}' text-anchor='{}' x='{}' y='{}'>{}</text>").format(
        style, anchor, _f(x), HEIGHT - BOTTOM + 22, text
    )


def _rule(scale: Scale, level: float) -> Markup:
    return Markup("<line class='base' x1='{}' x2='{}' y1='{y}' y2='{y}'/>").format(
        LEFT, WIDTH - RIGHT, y=_f(float(scale.y(level)))
    )


def _points(scale: Scale, values: Floats, limit: int = _DRAWN_POINTS_MAX) -> list[str]:
    kept = thinned(values, limit)
    return [f"{_f(x)} {_f(y)}" for x, y in zip(scale.x(kept), scale.y(values[kept]), strict=True)]


def _path(scale: Scale, values: Floats, style: str, limit: int = _DRAWN_POINTS_MAX) -> Markup:
    return Markup("<path class='{}' d='M{}'/>").format(style, "L".join(_points(scale, values, limit)))


def _area(scale: Scale, values: Floats, base: float) -> Markup:
    points = _points(scale, values)
    first, last = points[0].split()[0], points[-1].split()[0]
    level = _f(float(scale.y(base)))
    return Markup("<path class='area' d='M{} {}L{}L{} {}Z'/>").format(first, level, "L".join(points), last, level)


def _bar(scale: Scale, place: int, many: int, words: str, *, negative: bool) -> Markup:
    left, right, top = float(scale.x(place)), float(scale.x(place + 1)), float(scale.y(many))
    return Markup("<rect class='{}' x='{}' y='{}' width='{}' height='{}'><title>{}</title></rect>").format(
        "bar loss" if negative else "bar", _f(left + 1), _f(top), _f(right - left - 2), _f(HEIGHT - BOTTOM - top), words
    )


def _mark(scale: Scale, mark: Mark) -> Markup:
    x, y = float(scale.x(mark.place)), float(scale.y(mark.value))
    up = 1 if mark.entry else -1
    shape = f"M{_f(x)} {_f(y)}l5 {9 * up}h-10Z"
    style = "entry" if mark.entry else "exit loss" if mark.gain is False else "exit"
    letter = (
        Markup("<text class='letter' x='{}' y='{}'>{}</text>").format(_f(x), _f(y - 12), mark.letter)
        if mark.letter
        else Markup("")
    )
    return Markup("<g class='{}'><title>{}</title><path d='{}'/>{}</g>").format(style, mark.words, shape, letter)


def _told(
    days: Sequence[date], lines: Sequence[Line], written: Callable[[float], str], limit: int = _TOLD_POINTS_MAX
) -> str:
    """What the page's script says of the day pointed at: geometry, places, days and each line's written values."""
    step = max(-(-len(days) // limit), 1)
    places = list(range(0, len(days), step))
    values = [[written(float(v)) if np.isfinite(v) else "–" for v in line.values[places]] for line in lines]
    told = {
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "width": WIDTH,
        "days": [days[place].isoformat() for place in places],
        "names": [line.name for line in lines],
        "values": values,
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def _percent_text(levels: Sequence[float], *, signed: bool) -> Callable[[float], str]:
    """As many digits as tell neighbouring levels apart exactly."""
    step = (levels[1] - levels[0]) * 100
    whole = (
        few for few in range(4) if step * 10**few > 1 - 1e-6 and abs(step * 10**few - round(step * 10**few)) < 1e-6
    )
    digits = next(whole, 4)
    return lambda value: percent(value, digits, signed=signed)


def _price_text(levels: Sequence[float]) -> Callable[[float], str]:
    step = levels[1] - levels[0]
    if levels[-1] >= SHORT_FROM:
        return short_rupees
    return lambda value: rupees(value, 0 if step >= 1 else 2)
