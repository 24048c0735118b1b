"""The report: one release as a self-contained HTML page."""
