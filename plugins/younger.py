"""Sections of a recipe with fields that are younger than stored recipes."""

from typing import Any, ClassVar

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class OmitsYoungerDefaults(BaseModel):
    """A section that leaves out its `younger` fields where they have their defaults.

    Stored sections are hashed, so a section without a younger field keeps the hash that it had before the field.
    """

    younger: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_younger_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        omitted = {
            name for name in self.younger if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {name: value for name, value in serialize(self).items() if name not in omitted}
