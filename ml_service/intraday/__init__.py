"""The opening-range breakout: a plan of its own that begins and ends within one session, on five-minute bars."""
