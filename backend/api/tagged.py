"""An answer with its ETag: 304 without a body to whoever has it already."""

from fastapi import Request, Response

from backend.api.fast_path import CACHE_CONTROL, matches
from backend.services.quote_board import etag_of


def tagged(
    request: Request, body: bytes, *, essence: bytes | None = None, cache_control: str | None = None
) -> Response:
    """The JSON `body`, or 304 (RFC 9110, 13.1.2).

    `essence` is what of it matters: then the tag is weak and stays while only the rest changes.
    """
    etag = etag_of(body) if essence is None else b"W/" + etag_of(essence)
    headers = {"ETag": etag.decode(), "Cache-Control": cache_control or CACHE_CONTROL.decode()}
    if matches(request.headers.get("if-none-match", "").encode("latin-1"), etag.removeprefix(b"W/")):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
