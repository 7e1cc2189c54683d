"""Numbers for readers: the same on the terminal and in the report."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes in powers of 1000, three digits: 4725000 -> "4.72 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def signed(value: float) -> str:
    """A difference, three decimals, with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Wall time in the two largest of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
