"""Serves market data: instruments, bars, quotes and the market's clock, as of any instant."""
