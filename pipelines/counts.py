"""Row counts of a stage, which must balance."""

from dataclasses import dataclass, field

from storage.reasons import remedy


@dataclass
class Counts:
    """Row counts of one stage; `check` raises AssertionError unless in = out + unchanged + quarantined.

    `examples` holds the detail of the first row refused for each reason.
    """

    stage: str
    rows_in: int = 0
    out: int = 0
    unchanged: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        return sum(self.by_reason.values())

    def refuse(self, reason: str, rows: int = 1, detail: str = "") -> None:
        if rows:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + rows
            self.examples.setdefault(reason, detail)

    def add(self, other: "Counts") -> None:
        """Add the counts of another file."""
        self.rows_in += other.rows_in
        self.out += other.out
        self.unchanged += other.unchanged
        for reason, rows in other.by_reason.items():
            self.refuse(reason, rows, other.examples.get(reason, ""))

    def why(self) -> str:
        """Describe the reasons by descending row count, each with the detail of its first row and a remedy."""
        ordered = sorted(self.by_reason.items(), key=lambda each: (-each[1], each[0]))
        lines = [
            f"{reason} {rows:,}: {self.examples[reason]}".rstrip(": ") + _advice(reason) for reason, rows in ordered
        ]
        return "; ".join(lines[:3] + (["..."] if len(ordered) > 3 else []))

    def check(self) -> "Counts":
        if self.rows_in != self.out + self.unchanged + self.quarantined:
            raise AssertionError(f"stage {self.stage} lost rows: {self}")
        return self

    def summary(self) -> dict[str, object]:
        return {
            "rows_in": self.rows_in,
            "rows_out": self.out,
            "unchanged": self.unchanged,
            "quarantined": self.quarantined,
            "by_reason": dict(sorted(self.by_reason.items())),
        }


def _advice(reason: str) -> str:
    found = remedy(reason)
    return f" [{found}]" if found else ""
