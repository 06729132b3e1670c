"""The HTTP server, which ends the streams before it waits for open connections to close."""

import socket
from typing import cast

import uvicorn
from fastapi import FastAPI

from backend.api.state import ApiState

STOP_TIMEOUT_S = 2
MESSAGE_BYTES_MAX = 4096


class GatewayServer(uvicorn.Server):
    """uvicorn tells the application that it stops only when all answers are sent, and a stream never is."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Open answers have STOP_TIMEOUT_S seconds; WebSockets take messages of MESSAGE_BYTES_MAX bytes at most."""
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # whom to believe is the perimeter's to say
                server_header=False,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
                ws_max_size=MESSAGE_BYTES_MAX,
                ws_per_message_deflate=False,  # its buffers cost more than small messages gain
            )
        )
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then everything else."""
        await cast("ApiState", self._app.state.api).streams.close()
        await super().shutdown(sockets)
