"""The generated market: a pure function of seed, edge and the session calendar."""
