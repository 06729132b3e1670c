"""Data folders for whole stacks."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def folder_for_postgres() -> Iterator[Path]:
    """A new folder that is not below pytest's own: pytest keeps that to its user, and PostgreSQL under root runs as
    another one."""
    with tempfile.TemporaryDirectory(prefix="sauda-e2e-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def home() -> Iterator[Path]:
    with folder_for_postgres() as folder:
        yield folder
