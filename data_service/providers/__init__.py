"""Where bars and quotes come from: one Protocol, one module per source."""
