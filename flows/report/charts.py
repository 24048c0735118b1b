"""Charts as inline SVG without scripts: bars of code loads, a line over epochs, a curve through points."""

from collections.abc import Sequence
from html import escape

# Size of a chart, and space for its labels, in SVG units.
WIDTH, HEIGHT, PAD = 520, 120, 28


def load_chart(loads: Sequence[int], capacity: int, label: str) -> str:
    """Draw the items per code of one level, codes sorted by load; a dashed line marks the capacity."""
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


def curve_chart(points: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """Draw points (x, y) joined in their order; x is a share, shown as a percentage."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, inner = PAD + 30, HEIGHT - PAD
    x_span, y_span = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    placed = [
        (
            left + (WIDTH - left - 20) * (x - min(xs)) / x_span,
            6 + (inner - 12) * (1 - (y - min(ys)) / y_span),
        )
        for x, y in points
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{at:.2%}: {value:.5f}</title></circle>'
        for (x, y), (at, value) in zip(placed, points, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} against {escape(x_label)}">'
        f'<polyline class="line" points="{path}"/>{dots}<text x="0" y="12">{max(ys):.4f}</text>'
        f'<text x="0" y="{inner}">{min(ys):.4f}</text><text x="{left}" y="{HEIGHT - 8}">{escape(y_label)} against '
        f"{escape(x_label)}, {min(xs):.1%} to {max(xs):.1%}</text></svg>"
    )


def line_chart(values: Sequence[float], label: str) -> str:
    """Draw values over epochs, from 1."""
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
