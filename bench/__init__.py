"""Benchmarks: `python -m bench NAME`. Each figure stands beside a limit or a peer measured in the same run."""
