"""What the providers' tests share: the real files where they are at hand, packed as the exchanges pack them."""

import gzip
import io
import zipfile
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

SHARED_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real market data is not here")


def shared(name: str) -> bytes:
    """A real file, without its own gzip."""
    content = (SHARED_DATA / name).read_bytes()
    return gzip.decompress(content) if name.endswith(".gz") else content


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@asynccontextmanager
async def http_client():
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=5) as client:
        yield client
