"""Every operation of the gateway: by examples, at its schema's borders, at random and in sequences; for minutes."""

import tempfile
from pathlib import Path

import structlog

from ml_service.walkforward import Progress
from sauda.embedded import EmbeddedPostgres, create_database, migrate
from tests.evaluation.claims import Claim, nothing
from tests.evaluation.recorded_files import Recorded
from tests.support.conformance import Budget, conformance, served

LONG = Budget(examples=25, sequences=25)


def claims(_files: Recorded, progress: Progress) -> list[Claim]:
    """Nothing that a user or an administrator sends has an answer that the OpenAPI document does not have."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory(prefix="sauda-schema-", ignore_cleanup_errors=True) as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        try:
            url = create_database(postgres, "schema")
            migrate(url)
            made = []
            with served(url) as app:
                for done, who in enumerate(("paid", "admin")):
                    progress(done, 2, f"asking as {who}")
                    found = conformance(app, who, LONG)
                    count = found.checks["status_code_conformance"]
                    made.append(nothing(f"answers to {who} against the document, of {count}", found.failures))
        finally:
            postgres.stop()
    return made
