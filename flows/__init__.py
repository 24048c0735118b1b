"""Prefect flows, their steps, and the `sidmill` command. No tensor maths here."""
