"""The section [watch] of a recipe: how old things may be, and who is told. No release depends on it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Hours = Annotated[float, Field(gt=0)]


class WatchSpec(BaseModel):
    """Limits of age and lag, and hooks for alerts. A limit that is left out is not checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    production_hours: Hours | None = 48
    night_hours: Hours | None = 26
    model_hours: Hours | None = None
    source_hours: dict[str, Hours] = Field(default_factory=dict)
    lag_messages: int | None = Field(None, ge=0)
    alert_command: str | None = None
    alert_webhook_variable: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    alert_block: str | None = Field(None, pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")

    @property
    def alerts(self) -> bool:
        """True if anybody is told of problems."""
        return any((self.alert_command, self.alert_webhook_variable, self.alert_block))
