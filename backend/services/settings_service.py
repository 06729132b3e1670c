"""A user's auto-trading settings: switching on and off, and what to trade how."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from backend.domain.market import Product
from backend.domain.modes import Mode
from backend.domain.protections import Protections, to_stored
from backend.errors import InvalidRequestError
from backend.models import AutoTradeSettings, BrokerAccount
from backend.services.account_service import ready_account
from backend.services.context import Trading
from backend.services.quote_board import SYMBOLS_DEFAULT


async def settings_of(session: AsyncSession, user_id: int) -> AutoTradeSettings:
    """The user's settings; the defaults, not stored, for one who has never set any."""
    found = await session.get(AutoTradeSettings, user_id)
    if found is not None:
        return found
    return AutoTradeSettings(
        user_id=user_id,
        enabled=False,
        mode=Mode.CONSERVATIVE,
        product=Product.CNC,
        symbols=list(SYMBOLS_DEFAULT),
        entries_per_day_max=None,
        enabled_at=None,
        protections={},
        strategies=[],
    )


async def require_known(trading: Trading, symbols: Sequence[str]) -> None:
    """Check that every symbol is an instrument of the market; asks data_service where it was not asked yet.

    Raises:
        InvalidRequestError: one is not; the detail names them.
        UpstreamError: data_service did not answer.
    """
    market_data = trading.market_data
    if any(symbol not in market_data.instruments for symbol in symbols):
        await market_data.load_instruments()
    unknown = [symbol for symbol in symbols if symbol not in market_data.instruments]
    if unknown:
        raise InvalidRequestError(f"No such instruments: {', '.join(unknown[:10])}.", code="unknown_symbol")


async def replace_settings(
    session: AsyncSession,
    user_id: int,
    *,
    mode: Mode,
    product: Product,
    symbols: Sequence[str],
    entries_per_day_max: int | None,
    protections: Protections | None,
    strategies: Sequence[str] | None,
    market_now: datetime,
) -> AutoTradeSettings:
    """Replace what the user trades and how; open trades keep the plan they were entered with.

    `protections` and `strategies` None leave them as they are: a client that does not know of them cannot switch them.
    """
    settings = await settings_of(session, user_id)
    settings.mode = mode
    settings.product = product
    settings.symbols = list(symbols)
    settings.entries_per_day_max = entries_per_day_max
    if protections is not None:
        settings.protections = to_stored(protections)
    if strategies is not None:
        settings.strategies = list(strategies)
    settings.updated_at = market_now
    session.add(settings)
    await session.flush()
    return settings


async def enable(
    session: AsyncSession, user_id: int, mode: Mode | None, account_id: int | None, market_now: datetime
) -> tuple[AutoTradeSettings, BrokerAccount]:
    """Let the engine enter trades for the user from the next cycle on. Doing it twice changes nothing more.

    Raises:
        NotFoundError, ConflictError: as account_service.ready_account.
    """
    account = await ready_account(session, user_id, account_id)
    settings = await settings_of(session, user_id)
    if mode is not None and mode is not settings.mode:
        settings.mode, settings.updated_at = mode, market_now
    if not settings.enabled:
        settings.enabled, settings.enabled_at = True, market_now
    session.add(settings)
    await session.flush()
    return settings, account


async def disable(session: AsyncSession, user_id: int) -> AutoTradeSettings:
    """Stop entering. Exits of open trades go on: they protect what is held."""
    settings = await settings_of(session, user_id)
    if settings.enabled:
        settings.enabled = False
        await session.flush()
    return settings
