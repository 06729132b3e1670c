"""Zerodha's own client, unmodified but for its root URL, trades in a sandbox: run in an environment that has it.

Arguments: the sandbox's URL, the key and its secret. Prints what it saw as one JSON object.
"""

import json
import sys
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from kiteconnect import KiteConnect, KiteTicker
from kiteconnect import exceptions as refusals

WAIT_S = 20


def log_in(url: str, api_key: str, api_secret: str) -> KiteConnect:
    """Confirm on the login page as a browser would, and exchange what it redirects with."""
    kite = KiteConnect(api_key, root=url)
    page = kite.login_url().replace("https://kite.zerodha.com", url)
    assert requests.get(page, timeout=WAIT_S).status_code == 200
    back = requests.post(page, timeout=WAIT_S, allow_redirects=False).headers["location"]
    session = kite.generate_session(parse_qs(urlsplit(back).query)["request_token"][0], api_secret)
    assert session["access_token"] == kite.access_token
    return kite


def trade(kite: KiteConnect) -> dict[str, Any]:
    """Place, change and cancel, and read all that there is to read."""
    share = {"variety": "regular", "exchange": "NSE", "tradingsymbol": "INFY", "product": "CNC"}
    buy = share | {"transaction_type": "BUY", "quantity": 10, "order_type": "LIMIT"}
    bought = kite.place_order(**buy, price=1510, tag="client1")
    at_market = kite.place_order(**(buy | {"order_type": "MARKET"}), market_protection=-1)
    rests = kite.place_order(**buy, price=1490)
    assert kite.modify_order("regular", rests, quantity=20, price=1491) == rests
    assert kite.cancel_order("regular", rests) == rests
    refused = {}
    for name, asked in {"MarginException": {"quantity": 5000}, "InputException": {"tag": "x" * 21}}.items():
        try:
            kite.place_order(**(buy | asked), price=1510)
        except refusals.KiteException as error:
            # The client has no class for a MarginException and raises its general one.
            refused[name] = [type(error).__name__, error.code]
    token = next(i["instrument_token"] for i in kite.instruments("NSE") if i["tradingsymbol"] == "INFY")
    leg = {"transaction_type": "SELL", "quantity": 5, "order_type": "LIMIT", "product": "CNC", "price": 1590}
    gtt = kite.place_gtt(kite.GTT_TYPE_SINGLE, "INFY", "NSE", [1600], 1500, [leg])["trigger_id"]
    kite.modify_gtt(gtt, kite.GTT_TYPE_SINGLE, "INFY", "NSE", [1610], 1500, [leg])
    triggers = [kite.get_gtt(gtt)["condition"]["trigger_values"], len(kite.get_gtts())]
    kite.delete_gtt(gtt)
    candles = kite.historical_data(token, "2024-03-18 09:00:00", "2024-03-18 10:30:00", "minute", oi=True)
    margin_order = buy | {"price": 1500, "trigger_price": 0}
    assert kite.convert_position("NSE", "INFY", "BUY", "day", 5, "CNC", "MIS") is True
    return {
        "token": token,
        "orders": {order["order_id"]: order["status"] for order in kite.orders()},
        "numbers": [bought, at_market, rests],
        "history": [step["status"] for step in kite.order_history(rests)],
        "trades": [len(kite.trades()), kite.order_trades(bought)[0]["average_price"]],
        "placed": kite.orders()[0]["order_timestamp"].isoformat(),
        "refused": refused,
        "positions": {p["product"]: p["quantity"] for p in kite.positions()["net"]},
        "holdings": kite.holdings(),
        "margins": [kite.margins()["equity"]["net"], kite.margins("equity")["net"]],
        "profile": kite.profile()["user_id"],
        "quote": kite.quote("NSE:INFY")["NSE:INFY"]["last_price"],
        "ohlc": kite.ohlc(["NSE:INFY"])["NSE:INFY"]["ohlc"]["close"],
        "ltp": kite.ltp("NSE:INFY", "NSE:TCS"),
        "instruments": len(kite.instruments()),
        "candles": [[c["date"].isoformat(), c["close"], c["volume"], c["oi"]] for c in candles],
        "triggers": triggers,
        "order_margins": [m["total"] for m in kite.order_margins([margin_order])],
        "basket": kite.basket_order_margins([margin_order, margin_order])["final"]["total"],
        "charges": kite.get_virtual_contract_note([margin_order | {"order_id": "1", "average_price": 1500}])[0][
            "charges"
        ]["total"],
    }


def listen(kite: KiteConnect, url: str, token: int) -> dict[str, Any]:
    """Subscribe, wait for ticks of every mode, place an order and wait for the news of it."""
    seen: dict[str, Any] = {}
    done = threading.Event()
    ticker = KiteTicker(kite.api_key, kite.access_token, root=f"{url.replace('http', 'ws')}/ws")
    modes = iter(("full", "ltp"))

    def on_connect(ws: KiteTicker, _response: Any) -> None:
        ws.subscribe([token])

    def on_ticks(ws: KiteTicker, ticks: list[dict[str, Any]]) -> None:
        for tick in ticks:
            seen.setdefault(tick["mode"], tick["last_price"])
            if tick["mode"] == "full":
                seen["depth"] = [len(tick["depth"]["buy"]), tick["depth"]["sell"][0]["price"]]
        mode = next(modes, None)
        if mode is not None:
            ws.set_mode(mode, [token])
            return
        threading.Thread(target=place).start()

    def place() -> None:
        seen["placed"] = kite.place_order("regular", "NSE", "TCS", "BUY", 1, "CNC", "LIMIT", price=3900)

    def on_order_update(_ws: KiteTicker, data: dict[str, Any]) -> None:
        seen["update"] = [data["order_id"], data["status"]]
        done.set()

    ticker.on_connect, ticker.on_ticks, ticker.on_order_update = on_connect, on_ticks, on_order_update
    ticker.connect(threaded=True)
    seen["in_time"] = done.wait(WAIT_S)
    ticker.close()
    return seen


def main(url: str, api_key: str, api_secret: str) -> None:
    kite = log_in(url, api_key, api_secret)
    found = trade(kite)
    found["ticker"] = listen(kite, url, found["token"])
    kite.invalidate_access_token()
    try:
        kite.orders()
    except refusals.TokenException as error:
        found["after"] = error.code
    sys.stdout.write(json.dumps(found, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
