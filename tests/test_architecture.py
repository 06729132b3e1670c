"""What holds everywhere in the source and no type checker sees: who commits, who reads a clock, where floats may be."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contracts", "backend", "ml_service", "data_service", "sauda")
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400

STATISTICS = {
    "modes.ModeRules.return_net_min",
    "modes.ModeRules.confidence_min",
    "modes.MODE_RULES",
    "ranking.Signal.touch",
    "ranking.Signal.expected_return_net",
    "ranking.Signal.expected_return_net_lower",
    "ranking.Candidate.confidence",
    "ranking.Candidate.expected_return_net",
    "ranking.Candidate.expected_return_net_lower",
    "ranking._candidate",
    "ranking._shares_that_pay",
    "ranking._return_at",
    "ranking.edge_survives",
    "ranking._touch_at",
    "ranking.LEVEL_EPSILON",
    "reconcile.KnownOrder.age_s",
    "reconcile.LookupRules.from_s",
    "reconcile.LookupRules.every_s",
    "reconcile.LookupRules.is_due",
    "gate.GateLimits.quote_age_s_max",
    "gate.GateLimits.symbol_window_s",
    "gate._at_send",
    "gate.admit",
    "reconcile.settle",
    "reconcile._absent",
    "risk.RiskLimits.quote_age_s_max",
}
"""Where the domain may use floats: returns and probabilities as fractions, and ages in seconds; never rupees."""

SELF_EXPLAINING = {
    *("TradeStatus", "ExitReason", "SignalAction", "PlannedEntry", "PlannedExit"),
    *("Action", "InstrumentsReply", "QuotesRequest"),
}
"""Of backend.domain.{decide,ranking} and of contracts: enums and plain shapes whose members' names say it all."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    """One module: its path below the root, its text and its tree."""

    path: Path
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def within(self, *folders: str) -> bool:
        return any(self.path.is_relative_to(folder) for folder in folders)


Rule = Callable[[Source], Iterator[str]]


@cache
def sources() -> tuple[Source, ...]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(Source(path.relative_to(ROOT), path.read_text("utf-8")) for path in paths)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or a chain of attributes; an empty first part for anything else, as `().c`."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "()"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    return ((dotted(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def named(node: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node with the qualified name of the definition, field or constant it is part of."""
    for child in ast.iter_child_nodes(node):
        name = outer
        if isinstance(child, Definition):
            name = f"{outer}.{child.name}"
        elif isinstance(child, ast.AnnAssign) and isinstance(node, ast.Module | ast.ClassDef):
            name = f"{outer}.{dotted(child.target)}"
        elif isinstance(child, ast.Assign) and isinstance(node, ast.Module | ast.ClassDef):
            name = f"{outer}.{dotted(child.targets[0])}"
        yield name, child
        yield from named(child, name)


def commits(source: Source) -> Iterator[str]:
    """Transactions end with their `sessions.begin()` block, and a function that was given a session never opens one."""
    for name, call in calls(source.tree):
        if name.rpartition(".")[2] in {"commit", "rollback"}:
            yield f"{call.lineno}: {name}()"
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and "session" in {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}:
            for name, call in calls(node):
                if name in {"session.begin", "session.close"}:
                    yield f"{call.lineno}: {name}() by {node.name}, which was given its session"


def floats(source: Source) -> Iterator[str]:
    """Rupees are exact: in the domain a float is a statistic or an age, and listed as one."""
    if source.within("backend/domain"):
        for name, line in float_places(source):
            if name not in STATISTICS:
                yield f"{line}: a float in {name}"


def float_places(source: Source) -> Iterator[tuple[str, int]]:
    for name, node in named(source.tree, source.path.stem):
        literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
        if literal or (isinstance(node, ast.Name) and node.id == "float"):
            yield name, node.lineno  # pyright: ignore[reportAttributeAccessIssue]: both have one


def clocks(source: Source) -> Iterator[str]:
    """The time is an argument; only a composition root reads a real clock."""
    if source.path.name not in {"main.py", "__main__.py"}:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute):
                read = ".".join(dotted(node).split(".")[-2:])
                if read in {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time"}:
                    yield f"{node.lineno}: {read}"


def prints(source: Source) -> Iterator[str]:
    """Only the command line talks to a terminal."""
    if not source.within("sauda"):
        yield from (f"{call.lineno}: print()" for name, call in calls(source.tree) if name == "print")


def naive_datetimes(source: Source) -> Iterator[str]:
    """Every instant in the domain says its zone: the eighth argument of `datetime`, the third of `combine`."""
    places = {"datetime": 8, "combine": 3}
    if source.within("backend/domain"):
        for name, call in calls(source.tree):
            place = places.get(name.rpartition(".")[2])
            if place and len(call.args) < place and "tzinfo" not in {keyword.arg for keyword in call.keywords}:
                yield f"{call.lineno}: {name}() without tzinfo"


def docstrings(source: Source) -> Iterator[str]:
    """What others may call, and every module, says what it is."""
    if not source.within("contracts", "backend/domain", "backend/services"):
        return
    if source.text and not ast.get_docstring(source.tree):
        yield "1: the module"
    for node in source.tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_") or node.name in SELF_EXPLAINING:
            continue
        if not ast.get_docstring(node):
            yield f"{node.lineno}: {node.name}"


def sizes(source: Source) -> Iterator[str]:
    """A function fits on a screen, a file in a head."""
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"1: {lines} lines in one file"
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {length} lines"


RULES: tuple[Rule, ...] = (commits, floats, clocks, prints, naive_datetimes, docstrings, sizes)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps(rule: Rule) -> None:
    broken = [f"{source.path}:{place}" for source in sources() for place in rule(source)]
    assert not broken, "\n".join([rule.__doc__ or "", *broken])


def test_no_listed_statistic_has_gone() -> None:
    domain = [source for source in sources() if source.within("backend/domain")]
    assert {name for source in domain for name, _ in float_places(source)} == STATISTICS


LONG_FUNCTION = "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (commits, "backend/services/x.py", "async def f(sessions):\n    await sessions().commit()"),
        (commits, "sauda/x.py", "async def f(session):\n    await session.rollback()"),
        (commits, "sauda/x.py", "async def f(a, *, session):\n    async with session.begin(): ..."),
        (floats, "backend/domain/x.py", "FEE = 0.5"),
        (floats, "backend/domain/x.py", "def fee(price: Decimal) -> float: ..."),
        (floats, "backend/domain/decide.py", "class Signal:\n    target: float"),
        (floats, "backend/domain/x.py", "class A:\n    def b(self): return float(self.c)"),
        (clocks, "backend/services/x.py", "import datetime\nnow = datetime.datetime.now(datetime.UTC)"),
        (clocks, "ml_service/x.py", "from datetime import date\nday = date.today()"),
        (clocks, "sauda/x.py", "import time\nA(clock=time.time)"),
        (prints, "data_service/x.py", "print('here')"),
        (naive_datetimes, "backend/domain/x.py", "A = datetime(2026, 8, 3, 15, 15)"),
        (naive_datetimes, "backend/domain/x.py", "A = datetime.combine(day, time(9, 15))"),
        (docstrings, "contracts/x.py", '"""Why."""\nclass A:\n    b = 1'),
        (docstrings, "backend/services/x.py", '"""Why."""\nasync def a(): ...'),
        (docstrings, "backend/domain/x.py", "A = 1"),
        (sizes, "backend/x.py", LONG_FUNCTION),
        (sizes, "sauda/x.py", "A = 1\n" * (FILE_LINES_MAX + 1)),
    ],
)
def test_a_rule_sees_its_breach(rule: Rule, path: str, text: str) -> None:
    assert len(list(rule(Source(Path(path), text)))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "backend/services/x.py",
            '"""Why."""\nasync def f(sessions):\n    """F."""\n    async with sessions.begin(): ...',
        ),
        ("backend/domain/ranking.py", '"""Why."""\nclass Signal:\n    """S."""\n    expected_return_net: float'),
        ("backend/domain/x.py", '"""Why."""\nA = datetime(2026, 8, 3, tzinfo=IST)\nB = datetime.combine(a, b, IST)'),
        ("backend/main.py", "now = datetime.now(UTC)\nseconds = time.monotonic()"),
        ("sauda/x.py", "print(1)\n" + LONG_FUNCTION.replace("    pass\n", "", 1)),
    ],
)
def test_no_rule_sees_a_breach_in_good_code(path: str, text: str) -> None:
    assert [place for rule in RULES for place in rule(Source(Path(path), text))] == []


MACHINE_PATH = re.compile(rb"(?<![\w.:/-])/(?:work|root)/")
"""Paths of the machine a file was written on mean nothing on another."""


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert len(paths) > len(sources())
    assert not [path.name for path in paths if path.is_file() and MACHINE_PATH.search(path.read_bytes())]


@pytest.mark.parametrize("folder", [b"work", b"root"])
def test_a_path_of_one_machine_is_seen(folder: bytes) -> None:
    assert MACHINE_PATH.search(b"see /" + folder + b"/main")
    assert not MACHINE_PATH.search(b"https://example.com/" + folder + b"/main")
