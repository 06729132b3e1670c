"""The container deployment, held to its word as far as that goes without a container engine."""

import os
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic_settings import BaseSettings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.config import Settings as GatewaySettings
from contracts.common import Environment
from data_service.config import Settings as DataSettings
from ml_service.config import Settings as MlSettings
from ml_service.registry import Registry
from sauda.embedded import SERVICE_ROLE

ROOT = Path(__file__).resolve().parents[1]
SETTINGS_OF: dict[str, type[BaseSettings]] = {
    "migrate": GatewaySettings,
    "gateway": GatewaySettings,
    "trader": GatewaySettings,
    "backtest": GatewaySettings,
    "data_service": DataSettings,
    "train": MlSettings,
    "ml_service": MlSettings,
}
PORT_FIELDS = {"gateway": "gateway_port", "data_service": "data_service_port", "ml_service": "ml_service_port"}
VARIABLES = {name.upper() for settings in SETTINGS_OF.values() for name in settings.model_fields}
GIVEN = {
    "SECRET_KEY": "k" * 32,
    "MASTER_KEYS": "first:" + "a2Vz" * 10 + "a2U=",
    "POSTGRES_PASSWORD": "letters0and1digits",
    "SERVICE_PASSWORD": "digits1and0letters",
}
REFERENCE = re.compile(r"\$\$|\$\{(\w+)(?:(:[-?])([^}]*))?\}")

COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if name in SETTINGS_OF}
ONE_SHOT = {"migrate", "train"}


def interpolated(value: str, given: dict[str, str]) -> str:
    """A value as compose would pass it on. Raises LookupError where a variable that must be given is not."""

    def replace(match: re.Match[str]) -> str:
        name, operator, argument = match.groups()
        if name is None:
            return "$"
        if not given.get(name) and operator == ":?":
            raise LookupError(f"{name}: {argument}")
        return given.get(name) or (argument if operator == ":-" else "")

    return REFERENCE.sub(replace, value)


def environment_of(service: str, given: dict[str, str]) -> dict[str, str]:
    """Everything a container of the service finds in its environment, the image's variables included."""
    found = dict(pair.split("=", 1) for pair in arguments("ENV"))
    for entry in SERVICES[service].get("env_file", []):
        path = ROOT / interpolated(entry["path"], given)
        if path.exists() or entry["required"]:
            found |= yaml.safe_load(re.sub(r"(?m)^(\w+)=(.*)$", r'\1: "\2"', path.read_text()))
    return found | {name: interpolated(value, given) for name, value in SERVICES[service]["environment"].items()}


def settings_of(service: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """The settings that the service's own class reads in its container."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment_of(service, given).items():
        if name in VARIABLES:
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)  # away from a .env of the developer's
    return SETTINGS_OF[service]()


def instructions(stage: int | None = None) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, of one stage (-1 the last) or of all."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [(op, rest) for op, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]
    starts = [i for i, (op, _) in enumerate(found) if op == "FROM"]
    if stage is None:
        return found
    return found[starts[-1] :] if stage == -1 else found[starts[stage] : starts[stage + 1]]


def arguments(op: str, stage: int = -1) -> list[str]:
    """All words after an instruction, of one stage."""
    return [word for name, rest in instructions(stage) if name == op for word in rest.split()]


def copied_from_context() -> set[str]:
    """What the Dockerfile takes out of the project."""
    copies = [rest.split() for op, rest in instructions() if op == "COPY" and not rest.startswith("--from")]
    return {source for words in copies for source in words[:-1]}


# ---- docker-compose.yml


def test_every_service_says_when_it_is_ready_or_runs_once() -> None:
    for name, service in SERVICES.items():
        check = service["healthcheck"]
        if name in ONE_SHOT:
            assert check == {"disable": True}, name  # else it would inherit the image's, and never answer
            assert service["restart"] == "no", name
        else:
            assert check["test"][0] == "CMD", name
            assert {"interval", "timeout", "retries"} <= check.keys(), name
            assert service["restart"] == "unless-stopped", name


def test_every_dependency_is_waited_for() -> None:
    waits = {
        (name, needed): wait["condition"]
        for name, service in SERVICES.items()
        for needed, wait in service.get("depends_on", {}).items()
    }
    for (name, needed), condition in waits.items():
        expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert condition == expected, (name, needed)
    assert {("migrate", "postgres"), ("train", "data_service"), ("ml_service", "train")} <= waits.keys()
    for trading in ("gateway", "trader", "backtest"):
        assert {(trading, "migrate"), (trading, "ml_service"), (trading, "data_service")} <= waits.keys()


def test_every_variable_is_a_setting() -> None:
    for name, service in OURS.items():
        known = {field.upper() for field in SETTINGS_OF[name].model_fields}
        assert service["environment"].keys() <= known, name
    referenced = {match[1] for match in REFERENCE.finditer(COMPOSE_TEXT) if match[1]}
    assert referenced - VARIABLES == {"POSTGRES_PASSWORD", "SERVICE_PASSWORD", "INFLUXDB_PASSWORD"}
    in_files = {
        line.split("=")[0] for path in (ROOT / "deploy").glob("*.env") for line in path.open() if line[0] != "#"
    }
    assert in_files
    assert in_files <= VARIABLES
    image = {pair.split("=")[0] for pair in arguments("ENV")}
    assert image - VARIABLES == {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def test_the_simulated_market_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in OURS:
        assert settings_of(name, GIVEN, monkeypatch, tmp_path).environment is Environment.SIMULATED, name
    speed = settings_of("data_service", GIVEN, monkeypatch, tmp_path).sim_speed
    for name in ("gateway", "trader"):
        settings = settings_of(name, GIVEN, monkeypatch, tmp_path)
        assert settings.cycle_interval_s == 300
        assert settings.quote_age_s_max == 2 * speed


def test_real_prices_never_get_the_simulated_markets_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("gateway", "trader"):
        settings = settings_of(name, GIVEN | {"ENVIRONMENT": "paper"}, monkeypatch, tmp_path)
        assert settings.environment is Environment.PAPER
        assert settings.quote_age_s_max == GatewaySettings.model_fields["quote_age_s_max"].default
        assert settings.cycle_interval_s == GatewaySettings.model_fields["cycle_interval_s"].default


def test_trading_happens_in_the_trader_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not settings_of("gateway", GIVEN, monkeypatch, tmp_path).trader_enabled
    assert SERVICES["gateway"]["command"] == ["python", "-m", "backend"]
    assert SERVICES["trader"]["command"] == ["python", "-m", "backend.trader"]


def test_backtests_are_done_by_a_worker_that_is_watched_like_the_trader() -> None:
    assert SERVICES["backtest"]["command"] == ["python", "-m", "backend.backtest"]
    assert SERVICES["backtest"]["healthcheck"] == SERVICES["trader"]["healthcheck"]


def test_services_find_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in OURS:
        settings = settings_of(name, GIVEN, monkeypatch, tmp_path)
        for variable in {"DATA_SERVICE_URL", "ML_SERVICE_URL"} & OURS[name]["environment"].keys():
            url = urlsplit(getattr(settings, variable.lower()))
            assert f"{url.hostname}_url" == variable.lower()
            assert url.port == SETTINGS_OF[str(url.hostname)].model_fields[PORT_FIELDS[str(url.hostname)]].default
    for name, field in PORT_FIELDS.items():
        port = SETTINGS_OF[name].model_fields[field].default
        assert f"http://127.0.0.1:{port}/health" in SERVICES[name]["healthcheck"]["test"][-1]
        assert getattr(settings_of(name, GIVEN, monkeypatch, tmp_path), field.replace("port", "host")) == "0.0.0.0"
    for name in ("gateway", "trader", "backtest"):
        database = urlsplit(settings_of(name, GIVEN, monkeypatch, tmp_path).database_url)
        assert (database.hostname, database.username) == ("postgres", SERVICE_ROLE), name
        assert database.password == GIVEN["SERVICE_PASSWORD"]
    owner = urlsplit(environment_of("migrate", GIVEN)["DATABASE_URL"])
    assert (owner.hostname, owner.username, owner.password) == ("postgres", "sauda", GIVEN["POSTGRES_PASSWORD"])


async def test_the_script_makes_the_user_that_the_processes_log_in_as(owner: AsyncEngine) -> None:
    """The image's entry point runs it when the volume is new; the migrations then find the user and grant the roles."""
    mounted = [v for v in SERVICES["postgres"]["volumes"] if ":/docker-entrypoint-initdb.d/" in v]
    script = (ROOT / mounted[0].split(":")[0]).read_text()
    assert SERVICES["postgres"]["environment"].keys() >= set(re.findall(r"\$([A-Z_]+)", script))
    statement = re.search(r"CREATE ROLE .*;", script)
    assert statement is not None
    async with owner.connect() as connection:
        made = statement[0].replace(SERVICE_ROLE, "made_by_script").replace(":'password'", "'x'")
        await connection.execute(text(made))
        roles = text(
            "SELECT rolinherit, rolcanlogin, rolsuper, rolbypassrls FROM pg_roles "
            f"WHERE rolname IN ('made_by_script', '{SERVICE_ROLE}')"
        )
        assert [tuple(row) for row in await connection.execute(roles)] == [(False, True, False, False)] * 2
        await connection.rollback()


@pytest.mark.parametrize("secret", sorted(GIVEN))
def test_there_is_no_default_secret(secret: str) -> None:
    uses = [match for match in REFERENCE.finditer(COMPOSE_TEXT) if match[1] == secret]
    assert uses
    assert all(match[2] == ":?" for match in uses)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN$|KEY", name):
                # Those of what starts only by a profile may be left out, and are empty then.
                with suppress(LookupError):
                    assert interpolated(value, {}) == "", name


def test_only_the_gateway_signs_tokens_and_only_it_is_reachable() -> None:
    assert [name for name, service in OURS.items() if "SECRET_KEY" in service["environment"]] == ["gateway"]
    sealed = [name for name, service in OURS.items() if "MASTER_KEYS" in service["environment"]]
    assert sealed == ["gateway", "trader"]
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in published["gateway"])


def test_our_containers_can_write_nothing_but_their_data() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"user", "privileged", "cap_add", "network_mode"} & service.keys(), name
        expected = {"gateway": ["trading:/data"], "trader": ["trading:/data"], "migrate": [], "backtest": []}.get(
            name, ["data:/data"]
        )
        assert service.get("volumes", []) == expected, name


def test_one_service_builds_the_image_and_the_others_never_pull_one_of_its_name() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]
    assert len({service["image"] for service in OURS.values()}) == 1
    assert {service["pull_policy"] for name, service in OURS.items() if name != "migrate"} == {"never"}


def test_what_nothing_reads_yet_does_not_start() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"redis", "influxdb"}
    assert not {"redis", "influxdb"} & {needed for s in SERVICES.values() for needed in s.get("depends_on", {})}


def _train(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DATA_DIR": str(folder),
        "ENVIRONMENT": "simulated",
        "DATA_SERVICE_URL": "http://127.0.0.1:1",  # nobody listens
    }
    command = [interpolated(word, {}) for word in SERVICES["train"]["command"]]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_model_is_trained_only_where_none_is_current(tmp_path: Path) -> None:
    asked = _train(tmp_path)
    assert asked.returncode == 1
    assert "DataServiceError" in asked.stderr
    pointer = Registry(tmp_path).pointers.path(Environment.SIMULATED)
    pointer.parent.mkdir()
    pointer.write_text('{"10": "a"}')
    assert _train(tmp_path).returncode == 0


def _trader_check(database_url: str, script: str | None = None) -> int:
    script = script or SERVICES["trader"]["healthcheck"]["test"][-1]
    environment = os.environ | {"DATABASE_URL": database_url}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False).returncode


async def test_a_trader_counts_as_alive_while_it_speaks_to_the_database(engine: AsyncEngine, database_url: str) -> None:
    assert _trader_check(database_url) == 1  # no trader
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        assert _trader_check(database_url) == 0
        script = SERVICES["trader"]["healthcheck"]["test"][-1]
        assert _trader_check(database_url, script.replace("60 seconds", "0 seconds")) == 1  # silent for too long


# ---- Dockerfile and .dockerignore


def test_the_image_runs_as_nobody_in_particular_and_knows_when_it_is_healthy() -> None:
    final = instructions(-1)
    ops = [op for op, _ in final]
    assert ops.count("USER") == 1
    assert all(int(number) >= 10_000 for number in arguments("USER")[0].split(":"))
    assert "RUN" not in ops[ops.index("USER") :]
    assert "HEALTHCHECK" in ops
    owned = next(rest for op, rest in final if op == "RUN")
    assert "--owner sauda" in owned
    assert dict(pair.split("=", 1) for pair in arguments("ENV"))["DATA_DIR"] in owned.split()


def test_the_final_stage_takes_only_the_environment_from_the_builder() -> None:
    builder, final = arguments("FROM", 0), arguments("FROM")
    assert builder[0] == final[0] == "python:${PYTHON_VERSION}-slim"  # the environment links to this Python
    assert [word for word in arguments("COPY") if word.startswith("--from")] == [f"--from={builder[2]}"]
    assert next(rest for op, rest in instructions(-1) if op == "COPY").split()[1:] == ["/opt/sauda", "/opt/sauda"]


def test_everything_that_is_needed_is_copied_and_nothing_else_reaches_the_build() -> None:
    copied = copied_from_context()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages | {project["project"]["readme"], "uv.lock", "alembic.ini", "alembic"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_the_image_is_installed_as_the_makefile_installs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    version = re.search(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert version
    assert f"UV_VERSION={version[1]}" in arguments("ARG", 0)
    runs = " && ".join(rest for op, rest in instructions(0) if op == "RUN")
    installs = [step for step in runs.split(" && ") if "uv pip install" in step]
    assert all(("--require-hashes" in step) != ("dist/*.whl" in step) for step in installs)
    assert all("--frozen" in step for step in runs.split(" && ") if "uv export" in step)


def test_no_file_names_a_registry_and_every_locked_file_has_a_hash() -> None:
    addresses = re.compile(r"[a-z]+://[^\s\"']+")
    assert not addresses.search((ROOT / "uv.lock").read_text())
    assert {urlsplit(found).hostname for found in addresses.findall((ROOT / "Dockerfile").read_text())} == {"127.0.0.1"}
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    files = [file for package in locked for file in [*package.get("wheels", []), package.get("sdist")] if file]
    assert files
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]) for file in files)
