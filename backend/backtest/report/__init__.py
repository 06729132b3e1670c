"""The report on a backtest: what it found, how sure one can be, and what chance would have found."""

from backend.backtest.report.build import Report, build
from backend.backtest.report.sweep import build_sweep

__all__ = ["Report", "build", "build_sweep"]
