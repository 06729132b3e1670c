"""Keys of the sandbox, on the wire."""

from typing import Annotated

from pydantic import Field

from backend.api.schemas.common import Body, Line, Reply
from backend.services.sandbox_key_service import URL_LENGTH_MAX


class SandboxKeyBody(Body):
    """`redirect_url` is where a login returns to with its request token, as at Kite."""

    redirect_url: Annotated[Line, Field(min_length=1, max_length=URL_LENGTH_MAX)] = "http://127.0.0.1/"


class SandboxKeyReply(Reply):
    """The secret is shown now and never again. `root` is what a Kite Connect client takes in the place of Kite's own
    address, `ticker` in the place of its stream's."""

    account_id: int
    api_key: str
    api_secret: str
    root: str
    login_url: str
    ticker: str


class SandboxKeyEndedReply(Reply):
    account_id: int
    message: str
