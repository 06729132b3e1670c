"""`python -m backend.trader`: the trading loop on its own, without HTTP; set TRADER_ENABLED=false at the gateway."""

import asyncio
import signal
import sys

from pydantic import ValidationError

from backend import log
from backend.config import Settings
from backend.errors import SaudaError
from backend.main import follow_orders, log_file, require_keys, start_loop, wire
from backend.services.postback_service import OrderHints


async def trade(settings: Settings) -> None:
    stopped = asyncio.Event()
    running = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        running.add_signal_handler(signum, stopped.set)
    require_keys(settings)
    wired = wire(settings, log.announce)
    loop = await start_loop(settings, wired)
    following = asyncio.create_task(follow_orders(wired, OrderHints(wired.trading), listen=True))
    await stopped.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    loop.stop()
    await wired.close()


def main() -> None:
    try:
        settings = Settings()
        log.configure(settings.log_level, log_file(settings, "trader"))
        asyncio.run(trade(settings))
    except (ValidationError, ValueError, SaudaError) as error:
        sys.exit(f"The trader cannot start: {error}")


if __name__ == "__main__":
    main()
