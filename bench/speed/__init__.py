"""Benchmarks of speed, each beside a limit or a peer of the same run."""
