"""`make bench`: runs every benchmark, prints one table and writes bench.json."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sauda.embedded import EmbeddedPostgres
from tests.bench import backtests, bars, cycle, login_flood, predictions, quotes
from tests.bench.result import Result

OUTPUT = Path("bench.json")


def main() -> None:
    console = Console()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sauda-bench-", ignore_cleanup_errors=True) as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        try:
            with console.status("A cycle of 10,000 users ..."):
                results += cycle.run(postgres)
            with console.status("A flood of logins ..."):
                results += login_flood.run(postgres)
        finally:
            postgres.stop()
    with console.status("Bars ..."):
        results += bars.run()
    with console.status("Predictions ..."):
        results += predictions.run()
    with console.status("Backtests ..."):
        results += backtests.run_all()
    with console.status("Public quotes ..."):
        results += quotes.run()
    table = Table("benchmark", "value", "unit", "reference", "ratio", "aim")
    for r in results:
        table.add_row(r.name, f"{r.value:,.4g}", r.unit, f"{r.reference:,.4g}", f"{r.ratio:.2f}", r.aim)
    console.print(table)
    OUTPUT.write_text(json.dumps([asdict(r) | {"ratio": r.ratio} for r in results], indent=2) + "\n")
    console.print(f"Written to {OUTPUT}")


if __name__ == "__main__":
    main()
