"""What the evaluation asserts: a figure, what is asked of it, and whether it holds."""

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Claim:
    """One assertion. An `aim` is strived for and printed as met or not; only the others can fail the run."""

    name: str
    found: str
    asked: str
    holds: bool
    aim: bool = False

    @property
    def fails(self) -> bool:
        return not (self.holds or self.aim)

    @property
    def verdict(self) -> str:
        if self.aim:
            return "[green]met[/green]" if self.holds else "[yellow]not met[/yellow]"
        return "[green]holds[/green]" if self.holds else "[red]DOES NOT HOLD[/red]"


def at_most(name: str, found: float, most: float, *, aim: bool = False) -> Claim:
    """`found` is `most` or less."""
    return Claim(name, f"{found:.4f}", f"<= {most:g}", found <= most, aim)


def at_least(name: str, found: float, least: float, *, aim: bool = False) -> Claim:
    """`found` is `least` or more."""
    return Claim(name, f"{found:+.4f}", f">= {least:g}", found >= least, aim)


def within(name: str, found: float, low: float, high: float, *, aim: bool = False) -> Claim:
    """`found` lies between `low` and `high`."""
    return Claim(name, f"{found:.4f}", f"{low:.4f} to {high:.4f}", low <= found <= high, aim)


def nothing(name: str, found: list[str] | int) -> Claim:
    """There is none of it."""
    said = str(found) if isinstance(found, int) else ", ".join(found[:5]) + (" ..." if len(found) > 5 else "")
    return Claim(name, said or "none", "none", not found)


def table(title: str, claims: list[Claim]) -> Table:
    """The claims of one part."""
    shown = Table("claim", "found", "asked", "", title=title)
    for claim in claims:
        shown.add_row(claim.name, claim.found, claim.asked, claim.verdict)
    return shown
