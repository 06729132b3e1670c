"""Wiring the real brokers: their adapters, who opens accounts there, and, where orders are live, brokers to send to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx

from backend.brokers.adapter import Adapter
from backend.brokers.connected import ConnectedBroker
from backend.brokers.dhan import Dhan
from backend.brokers.order_sockets import SocketOf, dhan_socket, kite_socket, upstox_socket
from backend.brokers.upstox import Upstox
from backend.brokers.zerodha import Zerodha
from backend.config import Settings
from backend.db import Sessions
from backend.services.broker_access import BROKER_TIMEOUT_S, BrokerAccesses, CallCounter, Egress
from backend.vault import Vault
from contracts.common import Environment


@dataclass(frozen=True, slots=True)
class RealBrokers:
    """The adapters by name, through which users log in in any environment, and the brokers that orders can go to: none
    unless the environment is live."""

    adapters: Mapping[str, Adapter]
    brokers: Mapping[str, ConnectedBroker]
    egress: Egress
    accesses: BrokerAccesses
    logins: httpx.AsyncClient
    """For calls that no account's own address matters to."""
    sockets: Mapping[str, SocketOf]

    async def close(self) -> None:
        await self.egress.close()
        await self.logins.aclose()


def wire_real_brokers(
    settings: Settings, sessions: Sessions, vault: Vault | None, now: Callable[[], datetime]
) -> RealBrokers:
    """Build them. `sessions` work as the trader.

    Raises:
        ValueError: EGRESS_ROUTES cannot be meant.
    """
    http = httpx.AsyncClient(timeout=BROKER_TIMEOUT_S, follow_redirects=False)
    home = settings.public_url.rstrip("/")
    adapters: tuple[Adapter, ...] = (
        Zerodha(http=http, now=now, url=settings.zerodha_url, login_url=settings.zerodha_login_url),
        Upstox(
            http=http,
            now=now,
            url=settings.upstox_url,
            orders_url=settings.upstox_orders_url,
            login_url=f"{settings.upstox_url}/v2/login/authorization/dialog",
            redirect_url=f"{home}/v1/broker-login/{Upstox.name}",
        ),
        Dhan(http=http, now=now, url=settings.dhan_url, login_url=settings.dhan_login_url),
    )
    egress = Egress(settings.egress_routes)
    accesses = BrokerAccesses(sessions, vault, egress, now)
    brokers: dict[str, ConnectedBroker] = {}
    if settings.environment is Environment.LIVE:
        for adapter in adapters:
            brokers[adapter.name] = ConnectedBroker(adapter, accesses, CallCounter(sessions, adapter.rates))
    sockets = {
        Zerodha.name: kite_socket(settings.zerodha_stream_url),
        Upstox.name: upstox_socket(settings.upstox_url),
        Dhan.name: dhan_socket(settings.dhan_stream_url),
    }
    return RealBrokers({adapter.name: adapter for adapter in adapters}, brokers, egress, accesses, http, sockets)
