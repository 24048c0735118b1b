"""Judgement of resources that a recipe asks for."""

from flows.preflight.report import Report
from flows.recipe import Recipe
from flows.steps.embed import contents
from pipelines.compute.placement import lacking, resources_here
from pipelines.compute.ray_address import foreign_address
from pipelines.spec import TASKS


def judge_placement(report: Report, recipe: Recipe, items: float) -> None:
    """Report resources of a stage that this machine does not have; what a cluster elsewhere has is not known here."""
    if not recipe.compute.stages or foreign_address() is not None:
        return
    here, few = resources_here(recipe.compute), recipe.compute.in_process_below
    named = {TASKS, *(f"embed_{content.name}" for content, _ in contents(recipe))}
    for name, asked in recipe.compute.stages.items():
        fault = lacking(name, asked, here, "this machine")
        if not fault or name not in named:
            continue
        if items < few:
            report.warnings.append(
                f"{fault}, or set RAY_ADDRESS to a cluster that has it; only runs of fewer than {few} items, as this "
                "one, work in one process and need none of it"
            )
        else:
            report.errors.append(f"{fault}, or set RAY_ADDRESS to a cluster that has it")
