"""Benchmarks: ratios against a reference measured in the same run, so that they mean the same on any machine."""
