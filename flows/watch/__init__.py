"""Watching a lake that nobody looks at: its problems, its metrics, alerts, and what starts runs."""
