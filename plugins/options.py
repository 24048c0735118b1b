"""Validation of the table `options` of a recipe section: settings that only one member defines."""

from typing import Any

from pydantic import BaseModel, ValidationError


def check_options(name: str, model: type[BaseModel] | None, options: dict[str, Any]) -> None:
    """Raise ValueError unless `options` match the `model` of the member `name`; without a model, they must be empty."""
    if model is None:
        if options:
            raise ValueError(
                f"{name} has no options, but the recipe sets options.{', options.'.join(sorted(options))}; remove them"
            )
        return
    try:
        model.model_validate(options)
    except ValidationError as error:
        faults = "; ".join(f"options.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        known = ", ".join(sorted(model.model_fields))
        raise ValueError(f"{name}: {faults}; the options of {name} are {known}") from error
