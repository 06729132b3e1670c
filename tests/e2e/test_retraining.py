"""A training that fails is tried again, later each time, while everything else goes on."""

import os
from datetime import UTC, datetime
from pathlib import Path

from contracts.common import Environment
from data_service.config import Settings as DataSettings
from data_service.main import create_app as create_data_service
from ml_service.config import Settings as MlSettings
from ml_service.main import create_app as create_ml_service
from sauda.retrain import LOOK_EVERY_S, Retrainer, pause_s
from tests.support.market_server import serving

NOW = datetime(2024, 3, 18, 4, 30, tzinfo=UTC)


def test_the_pause_doubles_from_a_minute_to_half_an_hour() -> None:
    assert [pause_s(failures) / 60 for failures in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert pause_s(100_000) == 1800
    assert pause_s(0) == LOOK_EVERY_S


def pid_of(retrainer: Retrainer) -> int:
    """The training under way; asked of the Retrainer, as a process that has just ended no longer tells what it was."""
    training = retrainer._training
    assert training is not None
    return training.pid


def failed(retrainer: Retrainer, log: Path) -> str:
    """Start what is due, let it end (it is left to the Retrainer to bury), and return its news."""
    started = retrainer.watch()
    assert started is not None
    assert started.startswith("Retraining: ")
    os.waitid(os.P_PID, pid_of(retrainer), os.WEXITED | os.WNOWAIT)
    news = retrainer.watch()
    assert news is not None
    assert str(log) in news
    return news


def test_a_failed_training_is_tried_again_later_each_time(tmp_path: Path) -> None:
    seconds, log = [1000.0], tmp_path / "training.log"
    paper = {"environment": Environment.PAPER, "data_dir": tmp_path}
    data_service = create_data_service(DataSettings(**paper), lambda: NOW)  # without bars nothing can be learned
    with serving(data_service) as data_url:
        ml_service = create_ml_service(MlSettings(**paper, data_service_url=data_url), lambda: NOW)
        with serving(ml_service) as ml_url:
            environment = {"DATA_SERVICE_URL": data_url, "ML_SERVICE_URL": ml_url, "DATA_DIR": str(tmp_path)}
            retrainer = Retrainer(environment, log, clock=lambda: seconds[0])
            assert retrainer.watch() is None
            seconds[0] += LOOK_EVERY_S
            for minutes in (1, 2):
                assert f"tried again in {minutes} min" in failed(retrainer, log)
                seconds[0] += minutes * 60 - 1
                assert retrainer.watch() is None
                assert retrainer._training is None
                seconds[0] += 1
            assert retrainer.watch() is not None
            retrainer.kill()
            assert os.waitid(os.P_PID, pid_of(retrainer), os.WEXITED | os.WNOWAIT) is not None
            retrainer.stop()
    assert "no bars" in log.read_text()
