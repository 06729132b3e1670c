"""Training needs no library of the system's: a slim machine has no OpenMP runtime, and the wheels bring their own."""

import subprocess
import sys

FIT = """
import numpy as np
from ml_service.features import FEATURES
from ml_service.model import HEADS, fit_ensemble
rng = np.random.default_rng(1)
x = rng.normal(size=(600, len(FEATURES)))
events = {name: rng.random(600) < 0.5 for name in HEADS[1:]}
scores = fit_ensemble(x, x[:, 0], events).scores(x, np.full(600, 0.02))
assert all(np.isfinite(score).all() for score in scores.values())
print(*sorted({line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line or "libomp" in line}), sep="\\n")
"""


def test_every_openmp_runtime_in_use_lies_among_the_installed_wheels() -> None:
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True, timeout=120, check=True)
    loaded = done.stdout.split()
    assert loaded, "the trees are grown with one"
    assert all("site-packages" in path for path in loaded), loaded
