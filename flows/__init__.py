"""Prefect flows, their steps, and the `sidmill` command. No tensor maths here."""

from infra.settings import configure

configure()  # before Prefect is imported, however a flow is started: it would send statistics of its server
