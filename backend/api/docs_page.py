"""The page at /docs: Swagger UI from a package that is installed with Sauda, so that it needs no network of anybody's.

fastapi-offline brings the files; its page starts by a script within the page, which our policy would have to allow.
"""

from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sauda's API</title>
<link rel="icon" href="/docs/favicon.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


def install(app: FastAPI) -> None:
    """Add the page and its files."""
    folder = files("fastapi_offline") / "static"
    contents = {name: ((folder / name).read_bytes(), kind) for name, kind in ASSETS.items()}
    contents["start.js"] = (_START.encode(), "text/javascript")

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})

    def asset(body: bytes, kind: str):
        async def answer(_: Request) -> Response:
            return Response(body, media_type=kind, headers={"Cache-Control": "public, max-age=86400"})

        return answer

    app.add_route("/docs", page, include_in_schema=False)
    for name, (body, kind) in contents.items():
        app.add_route(f"/docs/{name}", asset(body, kind), include_in_schema=False)
