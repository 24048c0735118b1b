"""Charts as inline SVG, no script: bars of code loads, and a line over epochs."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, PAD = 520, 120, 28


def load_chart(loads: Sequence[int], capacity: int, label: str) -> str:
    """Items per code of one level, codes sorted by load; the dashed line is the capacity."""
    ordered = sorted(loads, reverse=True)
    top = max([capacity, *ordered, 1])
    inner, step = HEIGHT - PAD, (WIDTH - PAD) / max(1, len(ordered))
    bars = "".join(
        f'<rect x="{PAD + rank * step:.2f}" y="{inner - inner * load / top:.2f}" '
        f'width="{max(step * 0.9, 0.4):.2f}" height="{inner * load / top:.2f}"/>'
        for rank, load in enumerate(ordered)
    )
    line = inner - inner * capacity / top
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}"><g class="bars">{bars}</g>'
        f'<line class="limit" x1="{PAD}" x2="{WIDTH}" y1="{line:.1f}" y2="{line:.1f}"/>'
        f'<text x="0" y="10">{top}</text><text x="{PAD}" y="{HEIGHT - 10}">{len(ordered)} codes, fullest first; '
        f"capacity {capacity} (dashed)</text></svg>"
    )


def line_chart(values: Sequence[float], label: str) -> str:
    """Values over epochs, from 1."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    inner = HEIGHT - PAD
    points = [
        (
            PAD + 20 + (WIDTH - PAD - 40) * index / max(1, len(values) - 1),
            6 + (inner - 12) * (1 - (value - low) / span),
        )
        for index, value in enumerate(values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>epoch {index + 1}: {value:.4f}</title></circle>'
        for index, ((x, y), value) in enumerate(zip(points, values, strict=True))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<polyline class="line" points="{path}"/>{dots}<text x="0" y="12">{high:.3f}</text>'
        f'<text x="0" y="{inner}">{low:.3f}</text><text x="{PAD + 20}" y="{HEIGHT - 8}">{escape(label)}, '
        f"epochs 1 to {len(values)}</text></svg>"
    )
