"""Figures of one GPU: `python -m bench gpu`, or `make gpu`.

Each section runs in a process of its own, so a failure ends that section only.
"""

SECTIONS = {
    "limits": 90,
    "masks": 90,
    "decoding": 90,
    "texts": 90,
    "images": 90,
    "codebooks": 90,
    "sharing": 120,
    "ray": 120,
    "tests": 180,
    "training": 180,
}
"""Sections in order, and the seconds after which each is stopped. The longest, last, get what the others leave."""
