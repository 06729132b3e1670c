"""Zerodha's official Python client, unmodified apart from its root URL, trades in the sandbox over loopback."""

import asyncio
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-kite" / "bin" / "python"
SCRIPT = ROOT / "tests" / "kite_client" / "trade.py"


@pytest.fixture
def pulse_s() -> float:
    return 0.05


async def test_the_official_client_logs_in_trades_and_reads_all_of_it(kite):
    if not PYTHON.exists():
        lacking = "kiteconnect is not installed: make .venv-kite/.installed"
        assert not os.environ.get("CI"), lacking
        pytest.skip(lacking)
    kite.bar(1500, 1510, 1499, volume=700)
    client = await asyncio.create_subprocess_exec(
        *(PYTHON, SCRIPT, kite.url, kite.key.api_key, kite.key.api_secret),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await asyncio.wait_for(client.communicate(), 90)
    assert client.returncode == 0, said.decode()[-3000:]
    found = json.loads(out)
    bought, at_market, rests = found["numbers"]
    rejected = [number for number in found["orders"] if number not in found["numbers"]]
    assert found["orders"] == {bought: "COMPLETE", at_market: "COMPLETE", rests: "CANCELLED", rejected[0]: "REJECTED"}
    assert found["history"][-3:] == ["MODIFIED", "OPEN", "CANCELLED"]
    assert found["trades"] == [2, 1500.4]
    assert found["placed"] == "2024-03-18T10:01:00"
    assert found["refused"] == {"MarginException": ["GeneralException", 400], "InputException": ["InputException", 400]}
    assert found["positions"] == {"CNC": 15, "MIS": 5}
    assert found["holdings"] == []
    assert found["margins"][0] == found["margins"][1] < 500_000 - 15 * 1500
    assert (found["quote"], found["ohlc"], found["instruments"]) == (1500, 1500, 2)
    assert found["ltp"]["NSE:TCS"]["last_price"] == 4000
    assert found["candles"] == [["2024-03-18T10:00:00+05:30", 1500, 700, 0]]
    assert found["triggers"] == [[1610], 1]
    assert (found["order_margins"], found["basket"]) == ([15_000], 30_000)
    assert 17 < found["charges"] < 19
    ticks = found["ticker"]
    assert (ticks["quote"], ticks["full"], ticks["ltp"]) == (1500, 1500, 1500)
    assert ticks["depth"] == [5, 1500.05]
    assert ticks["update"] == [ticks["placed"], "OPEN"]
    assert found["after"] == 403
