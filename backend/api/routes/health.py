"""Whether the gateway is up."""

from importlib.metadata import version

from fastapi import APIRouter

from backend.api.deps import Public, State
from backend.api.documentation import documented
from contracts.common import Health

router = APIRouter(tags=["health"], dependencies=[Public])


@router.get("/v1/health", **documented("get_health"))
@router.get("/health", **documented("get_health_unversioned"))
async def get_health(state: State) -> Health:
    """The gateway's own state; `detail` says what it waits for while it is starting."""
    trouble = state.trouble()
    return Health(
        status="starting" if trouble else "ok",
        service="gateway",
        version=version("sauda"),
        environment=state.environment,
        detail=trouble,
    )
