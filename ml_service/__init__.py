"""Calibrated predictions from daily bars, with the record they are certified by."""
