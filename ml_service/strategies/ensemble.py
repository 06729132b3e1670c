"""The machine-learned strategy: a linear model and boosted trees on every feature, with a view of every row."""

from ml_service.model import STRATEGY, fit_ensemble
from ml_service.strategies.base import Strategy

ENSEMBLE = Strategy(name=STRATEGY, reason="learned_from_all_features", when=None, fit=fit_ensemble)
