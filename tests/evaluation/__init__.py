"""What the predictions are worth, shown at length: `make eval`."""
