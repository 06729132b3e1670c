"""Turns files of bars and split factors into checked columns."""
