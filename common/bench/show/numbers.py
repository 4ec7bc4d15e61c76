"""How figures are written."""


def three(value: float) -> str:
    """Return a figure to three digits: 0.00123, 4.56, 1,230."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ms(value: float) -> str:
    """Milliseconds to three figures."""
    return (
        f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"
    )
