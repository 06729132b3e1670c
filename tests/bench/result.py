"""What one benchmark found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """A value and its reference in the same unit, from the same run."""

    name: str
    value: float
    unit: str
    reference: float
    reference_name: str
    aim: str

    @property
    def ratio(self) -> float:
        return self.value / self.reference
