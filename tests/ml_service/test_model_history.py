"""A registered model says of each past day what it would have served on it, and of no day that it learned from."""

from datetime import datetime, time
from pathlib import Path

import polars as pl
from bar_server import IST, BarServer, serving
from test_history_service import client_of, past

from contracts.predictions import Action, PredictionHistoryReply, PredictionsReply
from ml_service.registry import Artefact


async def test_a_registered_model_says_what_it_would_have_served(
    tmp_path: Path, artefact: Artefact, planted: pl.DataFrame
) -> None:
    days = planted["session"].unique().sort()
    trained, last = artefact.trained_through, days[-1]
    assert trained == days[-31]
    with serving(BarServer(planted)) as server:
        async with client_of(tmp_path, server.url) as (client, _):
            as_of = datetime.combine(last, time(20), IST)
            symbols = [*artefact.manifest["universe"], "NOSUCH"]
            asked = {"model": artefact.version, "symbols": symbols}
            response = await past(client, days[-32], as_of, **asked)
            reply = PredictionHistoryReply.model_validate_json(response.content)
            assert list(reply.unanswered) == [days[-32], trained]
            assert [session.day for session in reply.sessions] == days[-30:].to_list()
            acted = 0
            for session in reply.sessions[::10]:
                instant = datetime.combine(session.day, time(11, 20), IST).isoformat()
                live = await client.post("/v1/predictions", json={"symbols": symbols, "as_of": instant})
                served = PredictionsReply.model_validate_json(live.content)
                assert session.predictions == {
                    s: p for s, p in served.predictions.items() if p.action is not Action.HOLD and p.certified_modes
                }
                told = {s: [p for p in found if p.action is not Action.HOLD] for s, found in served.candidates.items()}
                assert session.candidates == {s: found for s, found in told.items() if found}
                assert session.features_through == served.features_through
                assert session.idle["unknown_symbol"] == 1
                acted += len(session.predictions)
            assert acted > 0
            other = await past(client, days[-2], as_of, **asked, horizon_sessions=5)
            assert other.json()["code"] == "model_of_another_plan"
            assert (await past(client, days[-2], as_of, model="no")).status_code == 404
