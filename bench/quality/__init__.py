"""Benchmarks of quality on public catalogues: codebooks, representations and recommendation."""
