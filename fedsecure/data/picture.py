"""A contact sheet of prepared slices with label contours, to see with one's own eyes what a study would train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsecure.config import DataSettings
from fedsecure.errors import SettingsError
from fedsecure.types import Subject, Volume

_PATIENTS, _SLICES = 8, 8
_COLOURS = ("#e6550d", "#31a354", "#3182bd", "#dd1c77", "#bcbd22", "#17becf")
_CONTRAST = (-1.5, 2.5)  # grey values of black and white, in standard deviations of the volume


def contact_sheet(subjects: Sequence[Subject], settings: DataSettings, path: Path) -> None:
    """Write a PNG: patients spread over the source from top to bottom, slices from first to last from left to right.

    A new file has mode 0600, as it shows patients. Raises SettingsError without matplotlib, or when the file cannot be
    written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingsError("the picture needs matplotlib: pip install 'fedsecure[report]'") from None
    shown = [subjects[i] for i in _spread(len(subjects), _PATIENTS)]
    figure = Figure(figsize=(1.3 * _SLICES, 1.45 * len(shown) + 0.5), layout="compressed")
    axes = figure.subplots(len(shown), _SLICES, squeeze=False)
    for row, subject in zip(axes, shown, strict=True):
        volume = next((volume for volume in subject.volumes if volume.label is not None), subject.volumes[0])
        _draw_volume(row, volume, settings)
        row[0].set_title(f"{subject.id} {subject.group or ''}".strip(), fontsize=7, loc="left")
    handles = [_legend_line(value, name) for value, name in enumerate(settings.structures)]
    if handles and any(subject.labelled for subject in shown):
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False)
    try:
        with open(path, "wb", opener=_owners_alone) as file:
            figure.savefig(file, dpi=120, format="png")
    except OSError as error:
        raise SettingsError(f"the picture cannot be written: {error.strerror}") from None


def _owners_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _draw_volume(row: Sequence[Any], volume: Volume, settings: DataSettings) -> None:
    # y grows towards the front of the body in "RAS": shown upwards there, and downwards as stored otherwise.
    origin = "lower" if settings.orientation[1:2] == "A" else "upper"
    for axis in row:
        axis.set_axis_off()
    for axis, z in zip(row, _spread(len(volume.image), _SLICES), strict=False):
        low, high = _CONTRAST
        axis.imshow(volume.image[z], cmap="gray", vmin=low, vmax=high, origin=origin, interpolation="nearest")
        axis.text(0.03, 0.03, f"{z}", transform=axis.transAxes, fontsize=6, color="white")
        if volume.label is None:
            continue
        for value in np.unique(volume.label[z]):
            if value > 0:
                inside = (volume.label[z] == value).astype(np.float32)
                axis.contour(inside, levels=[0.5], colors=[_colour(int(value))], linewidths=0.7)


def _legend_line(index: int, name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=_colour(index + 1), label=f"{index + 1} {name}")


def _colour(value: int) -> str:
    return _COLOURS[(value - 1) % len(_COLOURS)]


def _spread(total: int, most: int) -> list[int]:
    """At most `most` of 0..total-1, evenly, with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(total, most))})
