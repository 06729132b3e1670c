"""Logging in as at Kite: a page where the owner confirms, a request token, and the day's access token for it."""

import html
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from backend.errors import NotAuthenticatedError, SaudaError
from backend.models import BrokerAccount, SandboxApp, User
from backend.sandbox.limits import Group
from backend.sandbox.words import KiteError, client_id, ist, token_ends_at
from backend.sandbox.world import Caller, World, form_of
from backend.services.sandbox_key_service import exchange, find_app, grant, holder, log_out

REDIRECT_PARAMS_MAX = 1000
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sauda sandbox</title><style>body{{font:16px system-ui;max-width:24rem;margin:4rem auto;padding:0 1rem}}
label,button{{display:block;margin:1rem 0;width:100%}}input{{width:100%;font:inherit}}p.e{{color:#b00}}</style>
<h1>Sandbox login</h1><p>A client with the key <b>{key}</b> asks to trade your paper account <b>{account}</b>:
play money, no real orders.</p>{error}<form method="post">{fields}<button>Log in</button></form></html>"""
ASKED = """<label>Password of Sauda
<input type="password" name="password" autocomplete="current-password" required></label>
<label>Code of your second factor, if you have one<input name="code" inputmode="numeric" autocomplete="one-time-code">
</label>"""


async def page(world: World, request: Request) -> Response:
    """GET /connect/login?api_key=…&v=3[&redirect_params=…]."""
    try:
        app = await _app(world, request)
    except NotAuthenticatedError as error:
        raise KiteError("InputException", error.detail) from None
    return _page(world, app, "", 200)


def _page(world: World, app: SandboxApp, error: str, status: int) -> Response:
    told = f'<p class="e">{html.escape(error)}</p>' if error else ""
    account = client_id(app.account_id)
    text = PAGE.format(key=html.escape(app.api_key), account=account, error=told, fields=ASKED if world.confirm else "")
    return HTMLResponse(text, status, HEADERS)


async def confirm(world: World, request: Request) -> Response:
    """POST of the page: back to the app's redirect URL with a request token."""
    try:
        app = await _app(world, request)
    except NotAuthenticatedError as error:
        raise KiteError("InputException", error.detail) from None
    if world.confirm is not None:
        form = await form_of(request)
        address = request.client.host if request.client else ""
        try:
            await world.confirm(app.user_id, form.get("password", ""), form.get("code", ""), address)
        except SaudaError as error:
            return _page(world, app, error.detail, error.status)
    async with world.sessions.begin() as session:
        token = await grant(session, app, world.now())
    more = parse_qsl(request.query_params.get("redirect_params", "")[:REDIRECT_PARAMS_MAX])
    told = {"action": "login", "type": "login", "status": "success", "request_token": token}
    query = urlencode([*more, *told.items()])
    joined = "&" if urlsplit(app.redirect_url).query else "?"
    return RedirectResponse(f"{app.redirect_url}{joined}{query}", 302, HEADERS)


async def _app(world: World, request: Request) -> SandboxApp:
    async with world.sessions() as session:
        return await find_app(session, request.query_params.get("api_key", ""))


async def make_session(world: World, request: Request) -> Mapping[str, Any]:
    """POST /session/token: the day's access token. Source: kite.trade/docs/connect/v3/user."""
    form = await form_of(request)
    now = world.now()
    try:
        async with world.sessions.begin() as session:
            app = await find_app(session, form.get("api_key", ""))
            world.limits.take(app.api_key, Group.OTHER)
            given = form.get("request_token", ""), form.get("checksum", "")
            token = await exchange(session, world.vault, app, *given, now, token_ends_at(now))
            profile = await _profile(world, app.user_id, app.account_id)
    except NotAuthenticatedError as error:
        raise KiteError("TokenException", error.detail) from None
    return profile | {
        "api_key": app.api_key,
        "access_token": token,
        "public_token": token[:16],
        "enctoken": token[16:],
        "refresh_token": "",
        "silo": "",
        "login_time": ist(now),
    }


async def end_session(world: World, request: Request) -> bool:
    """DELETE /session/token?api_key=…&access_token=…; a form does, too."""
    given = dict(request.query_params) or await form_of(request)
    async with world.sessions.begin() as session:
        await log_out(session, given.get("api_key", ""), given.get("access_token", ""))
    return True


async def caller_of(world: World, api_key: str, access_token: str) -> Caller:
    """Who holds that access token. Raises KiteError."""
    try:
        async with world.sessions() as session:
            found = await holder(session, api_key, access_token, world.now())
    except NotAuthenticatedError as error:
        raise KiteError("TokenException", error.detail) from None
    return Caller(world, api_key, access_token, found.account_id, found.user_id)


async def authorized(world: World, request: Request) -> Caller:
    """The caller of a request: `Authorization: token api_key:access_token`. Raises KiteError."""
    kind, _, pair = request.headers.get("authorization", "").partition(" ")
    api_key, colon, access_token = pair.partition(":")
    if kind.lower() != "token" or not colon:
        raise KiteError("TokenException", "Incorrect `api_key` or `access_token`.")
    return await caller_of(world, api_key, access_token)


async def profile(caller: Caller, _: Request) -> Mapping[str, Any]:
    """GET /user/profile."""
    caller.count(Group.OTHER)
    return await _profile(caller.world, caller.user_id, caller.account_id)


async def _profile(world: World, user_id: int, account_id: int) -> dict[str, Any]:
    async with world.sessions() as session:
        of = select(User.email, User.name, BrokerAccount.label).join(BrokerAccount, BrokerAccount.user_id == User.id)
        email, name, label = (await session.execute(of.where(User.id == user_id, BrokerAccount.id == account_id))).one()
    return {
        "user_id": client_id(account_id),
        "user_type": "individual",
        "email": email,
        "user_name": name or label,
        "user_shortname": (name or label).split(" ")[0],
        "broker": "ZERODHA",
        "exchanges": ["NSE"],
        "products": ["CNC", "MIS"],
        "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
        "avatar_url": None,
        "meta": {"demat_consent": "consent"},
    }
