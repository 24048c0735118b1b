"""Benchmarks: `python -m bench NAME`. Each figure is printed beside a limit or a peer measured in the same run."""
