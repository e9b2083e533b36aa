"""What is found wrong, or worth knowing, in data."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

Severity = Literal["error", "warning", "info"]
MANY, FEW = 0.1, 3  # many: more than this share, and more than so many


@dataclass(frozen=True)
class Finding:
    """One problem of a data set, with everything that has it; ``asdict`` of it is plain JSON.

    Args:
        code (str): Stays the same between versions, such as ``"box-outside"``.
        severity (str): ``"error"``: training would be wasted; ``"warning"``: something was left
            out or changed; ``"info"``: nothing is lost.
        message (str): A sentence for the screen, with how many there are and what is done.
        images (list[str]): Images, or lines of files as ``file:line``, that have the problem.
    """

    code: str
    severity: Severity
    message: str
    images: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The message with the first images, for a log, which says the severity itself."""
        examples = ", ".join(self.images[:3]) + (", ..." if len(self.images) > 3 else "")
        return self.message + (f" ({examples})" if examples else "")

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


def errors_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by their severity, and those of most images first."""
    order = get_args(Severity)
    return sorted(findings, key=lambda one: (order.index(one.severity), -len(one.images)))


def is_many(count: int, total: int) -> bool:
    """Whether so many of so many make an error of a warning."""
    return count > max(FEW, MANY * total)
