"""The cookie that keeps a browser's refresh token from scripts, and the origins that may have it used."""

from urllib.parse import urlsplit

from fastapi import Request, Response

from backend.api.state import ApiState
from backend.errors import NotAllowedError

NAME = "__Host-sauda_refresh"
"""Browsers take a `__Host-` cookie over TLS alone, and give it to this host alone (RFC 6265bis, 4.1.3.2)."""
DAY_S = 86_400


def give(response: Response, token: str, days: int) -> None:
    """Put the token into the cookie."""
    response.set_cookie(NAME, token, max_age=days * DAY_S, path="/", secure=True, httponly=True, samesite="strict")


def take_back(response: Response) -> None:
    """Have the browser forget it."""
    response.delete_cookie(NAME, path="/", secure=True, httponly=True, samesite="strict")


def token_in(request: Request, state: ApiState) -> str | None:
    """The refresh token of the request's cookie; None where it has none.

    Raises:
        NotAllowedError: as `require_own_origin`.
    """
    token = request.cookies.get(NAME)
    if token is not None:
        require_own_origin(request, state)
    return token


def require_own_origin(request: Request, state: ApiState) -> None:
    """Refuse what another site's page has a browser do: a cookie comes by itself, an Origin cannot be made up there.

    Raises:
        NotAllowedError: the request names no origin, or one that is neither ours nor in CORS_ORIGINS.
    """
    here = f"{request.url.scheme}://{request.headers.get('host', '')}"
    own = {origin_of(state.logins.public_url), here, *state.cors_origins}
    if request.headers.get("origin") not in own:
        raise NotAllowedError(
            "A login by cookie needs the Origin of our own pages: send the refresh token in the body instead.",
            code="origin_not_allowed",
        )


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, as browsers write an origin."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
