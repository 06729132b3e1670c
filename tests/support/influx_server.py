"""A server on loopback that speaks the part of InfluxDB 2's HTTP interface that Sauda uses, as documented.

It keeps points by (measurement, tags, time) and merges their fields, reads line protocol with its escapes and integer
suffixes, and runs the Flux stages from, range, filter (== and and), pivot, group and drop. What it does not know it
refuses with 400, so that a query it would misread cannot pass. It is no substitute for a run against the real server.
"""

import csv
import gzip
import io
import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import loads
from urllib.parse import parse_qs, urlsplit

TOKEN, ORG, BUCKET = "test-token", "sauda", "market"
Point = dict[str, str | int | float]


class Database:
    """Points by (measurement, sorted tags, epoch seconds)."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, tuple[tuple[str, str], ...], int], Point] = {}
        self.lock = threading.Lock()

    def write(self, lines: str) -> None:
        for line in filter(None, lines.split("\n")):
            head, fields, time_s = re.fullmatch(
                r"((?:\\.|[^ ])+) ((?:\"(?:\\.|[^\"])*\"|[^ ])+) (-?\d+)", line
            ).groups()
            measurement, *tags = re.split(r"(?<!\\),", head)
            key = measurement, tuple(sorted(tuple(tag.split("=", 1)) for tag in tags)), int(time_s)
            self.points.setdefault(key, {}).update(dict(_field(text) for text in re.split(r",(?=\w+=)", fields)))

    def delete(self, start_s: int, stop_s: int, wanted: dict[str, str]) -> None:
        """Points from `start_s` through `stop_s`, both included."""
        for key in [k for k in self.points if start_s <= k[2] <= stop_s and _row(k, {}).items() >= wanted.items()]:
            del self.points[key]


def _field(text: str) -> tuple[str, str | int | float]:
    name, value = text.split("=", 1)
    if value.startswith('"'):
        return name, re.sub(r"\\(.)", r"\1", value[1:-1])
    return name, int(value[:-1]) if value.endswith("i") else float(value)


def _row(key: tuple, fields: Point) -> dict[str, str]:
    return {"_measurement": key[0], **dict(key[1]), **{name: str(value) for name, value in fields.items()}}


STAGES = (
    r'from\(bucket: "(?P<bucket>[^"]*)"\)\s*'
    r"\|> range\(start: (?P<start>\S+), stop: (?P<stop>\S+)\)\s*"
    r"\|> filter\(fn: \(r\) => (?P<condition>[^)]*)\)\s*"
    r'\|> pivot\(rowKey: \["_time"\], columnKey: \["_field"\], valueColumn: "_value"\)\s*'
    r"\|> group\(\)\s*"
    r"\|> drop\(columns: \[(?P<dropped>[^\]]*)\]\)\s*"
)


def _epoch_s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def run_flux(database: Database, flux: str) -> str:
    """The annotated-less CSV of a query. Raises ValueError for a query outside of the known stages."""
    query = re.fullmatch(STAGES, flux)
    conditions = (
        [re.fullmatch(r'r\.(\w+) == "([^"]*)"', part) for part in query["condition"].split(" and ")] if query else []
    )
    if query is None or None in conditions or query["bucket"] != BUCKET:
        raise ValueError("cannot run this query")
    wanted = {match[1]: match[2] for match in conditions}
    start_s, stop_s = _epoch_s(query["start"]), _epoch_s(query["stop"])
    dropped = {name.strip().strip('"') for name in query["dropped"].split(",")}
    rows = [
        {"_time": datetime.fromtimestamp(key[2], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **_row(key, fields)}
        for key, fields in database.points.items()
        if start_s <= key[2] < stop_s and _row(key, {}).items() >= wanted.items()
    ]
    if not rows:
        return "\r\n"
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in dropped]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["", "result", "table", *names])
    writer.writerows(["", "_result", 0, *(row.get(name, "") for name in names)] for row in rows)
    return text.getvalue() + "\r\n"


class _Handler(BaseHTTPRequestHandler):
    server: "InfluxServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        url = urlsplit(self.path)
        if self.server.broken:
            return self._reply(503, '{"code":"unavailable","message":"broken"}')
        if self.headers.get("authorization") != f"Token {TOKEN}":
            return self._reply(401, '{"code":"unauthorized","message":"unauthorized access"}')
        self.server.requests += 1
        try:
            with self.server.database.lock:
                return self._reply(*self._answer(url.path, parse_qs(url.query), body))
        except (ValueError, AttributeError, KeyError) as error:
            return self._reply(400, f'{{"code":"invalid","message":"{type(error).__name__}"}}')

    def _answer(self, path: str, query: dict, body: bytes) -> tuple[int, str]:
        database = self.server.database
        if path == "/api/v2/write":
            if (query["bucket"], query["org"], query["precision"]) != ([BUCKET], [ORG], ["s"]):
                return 404, '{"code":"not found","message":"bucket not found"}'
            database.write(body.decode())
            return 204, ""
        if path == "/api/v2/query":
            return 200, run_flux(database, loads(body)["query"])
        if path == "/api/v2/delete":
            asked = loads(body)
            wanted = dict(re.findall(r'(\w+)="([^"]*)"', asked["predicate"]))
            database.delete(_epoch_s(asked["start"]), _epoch_s(asked["stop"]), wanted)
            return 204, ""
        return 404, "{}"

    def _reply(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/csv" if status == 200 else "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Quiet."""


class InfluxServer(ThreadingHTTPServer):
    """`broken` makes every answer a 503; `requests` counts the others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.database, self.broken, self.requests = Database(), False, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def influx_server():
    """A running server with an empty bucket."""
    server = InfluxServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
