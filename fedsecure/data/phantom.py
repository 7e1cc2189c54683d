"""Made-up short-axis hearts as real NIfTI files, for demonstrations and tests: nobody's anatomy, every door exercised.

A patient is a set of smooth shapes that change from base to apex: a ring of myocardium round the LV cavity with
papillary muscles, an RV crescent, chest wall, lungs, liver, stomach, spine and great vessels. A site is a scanner:
contrast, noise, bias field, blur, pixel size and position differ. Two frames each, ED and ES, labelled as in ACDC.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter

from fedsecure.data.nifti import write
from fedsecure.seeds import derive_seed
from fedsecure.types import FloatArray, LabelArray

VERSION: Final = 2  # raise it when the same arguments give other voxels than before
STRUCTURES = ("RV cavity", "LV myocardium", "LV cavity")  # label values 1, 2, 3
_TISSUES = ("air", "fat", "muscle", "lung", "liver", "bone", "blood")
_SIGNAL = (0.02, 0.85, 0.34, 0.10, 0.38, 0.48, 0.78)  # relative, as in balanced steady-state cine MR
_RV, _MYOCARDIUM, _LV = 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Scanner:
    """What makes a site's images its own."""

    signal: FloatArray  # of each tissue
    gain: float  # stored value of signal 1
    noise: float  # standard deviation in each quadrature channel, relative to signal 1
    bias: float  # strength of the coil's shading
    blur: float  # pixels
    field_mm: float  # edge of the square image
    slice_mm: float
    offset_mm: FloatArray  # of the body in the image, (x, y)


@dataclass(frozen=True, slots=True)
class _Heart:
    """One patient's anatomy at end-diastole. Lengths in mm, angles in radians."""

    slices: int
    centre: FloatArray  # (x, y) of the LV at the base
    drift: FloatArray  # how far the centre moves towards the apex
    radius: float  # of the LV cavity at the base
    wall: float
    septum: float  # direction from LV to RV
    waves: FloatArray  # [3, 2]: size and phase of the outline's waves of order 2, 3, 4
    rv: float  # size of the RV relative to the LV's outer radius
    contraction: float  # ES radius / ED radius
    blood: float  # signal of blood relative to the scanner's: flow and contrast agent differ
    body: FloatArray  # half axes of the chest


def write_phantom(folder: Path, patients: int, seed: int, site: int = 0, size: int = 128) -> None:
    """Write patients as `folder/case-NNN/case-NNN_{ED,ES}.nii.gz` with `_gt` labels and a dataset.json beside them.

    The same arguments give the same voxels; another `site` gives other patients on another scanner. NumPy's generator
    serves here because a phantom has nobody to protect.
    """
    scanner = _scanner(np.random.default_rng(derive_seed(seed, "phantom scanner", site)))
    folder.mkdir(parents=True, exist_ok=True)
    labels = {str(value): name for value, name in enumerate(("background", *STRUCTURES))}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}, indent=2) + "\n", "utf-8")
    for patient in range(patients):
        rng = np.random.default_rng(derive_seed(seed, "phantom patient", site, patient))
        heart = _heart(rng)
        affine = np.diag([scanner.field_mm / size, scanner.field_mm / size, scanner.slice_mm, 1.0])
        case = folder / f"case-{patient:03d}"
        case.mkdir(exist_ok=True)
        for phase, name in enumerate(("ED", "ES")):
            image, label = _volume(heart, scanner, float(phase), size, rng)
            write(case / f"{case.name}_{name}.nii.gz", image, affine)
            write(case / f"{case.name}_{name}_gt.nii.gz", label, affine)


def _scanner(rng: np.random.Generator) -> _Scanner:
    return _Scanner(
        signal=(np.array(_SIGNAL) * rng.lognormal(0.0, 0.10, len(_TISSUES))).astype(np.float32),
        gain=float(rng.choice([255.0, 900.0, 4000.0])),
        noise=rng.uniform(0.04, 0.09),
        bias=rng.uniform(0.3, 0.6),
        blur=rng.uniform(0.5, 1.1),
        field_mm=rng.uniform(195.0, 245.0),
        slice_mm=float(rng.choice([8.0, 10.0])),
        offset_mm=rng.normal(0.0, 6.0, 2).astype(np.float32),
    )


def _heart(rng: np.random.Generator) -> _Heart:
    sizes = np.array([0.04, 0.02, 0.012]) * rng.standard_normal(3)
    return _Heart(
        slices=int(rng.integers(8, 13)),
        centre=(np.array([14.0, 8.0]) + rng.normal(0.0, 6.0, 2)).astype(np.float32),
        drift=np.array([rng.normal(8.0, 4.0), rng.normal(-8.0, 4.0)], np.float32),
        radius=rng.uniform(17.0, 26.0),
        wall=rng.uniform(7.0, 12.0),
        septum=np.pi + rng.normal(0.0, 0.35),
        waves=np.stack([sizes, rng.uniform(0.0, 2 * np.pi, 3)], axis=1).astype(np.float32),
        rv=rng.uniform(0.8, 1.05),
        contraction=rng.uniform(0.55, 0.8),
        blood=rng.uniform(0.65, 1.1),
        body=np.array([rng.uniform(104.0, 122.0), rng.uniform(76.0, 94.0)], np.float32),
    )


def _volume(
    heart: _Heart, scanner: _Scanner, phase: float, size: int, rng: np.random.Generator
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int16]], LabelArray]:
    """One frame: int16 image and uint8 label, [X, Y, Z], base first. `phase` is 0 at ED and 1 at ES."""
    half = scanner.field_mm / 2
    line = np.linspace(-half, half, size, dtype=np.float32)
    x = line[:, None, None] - scanner.offset_mm[0]
    y = line[None, :, None] - scanner.offset_mm[1]
    # In systole the base moves towards the apex, so that a slice of the same place shows a lower part of the heart.
    t = np.clip(np.linspace(0.0, 1.0, heart.slices, dtype=np.float32) + 0.08 * phase, 0.0, 1.0)[None, None, :]
    tissue, label = _anatomy(heart, phase, x, y, t)
    of_tissue = scanner.signal.copy()
    of_tissue[_TISSUES.index("blood")] *= heart.blood
    signal = of_tissue[tissue]
    signal *= 1 + np.float32(0.18) * _texture(rng, signal.shape)
    signal = gaussian_filter(signal, (scanner.blur, scanner.blur, 0.0))
    signal *= _shading(rng, scanner.bias, x / half, y / half, t)
    real = signal + scanner.noise * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = scanner.noise * rng.standard_normal(signal.shape, dtype=np.float32)
    magnitude = np.hypot(real, imaginary)  # Rician, as magnitude images are
    return np.round(scanner.gain * magnitude).astype(np.int16), label


def _anatomy(heart: _Heart, phase: float, x: FloatArray, y: FloatArray, t: FloatArray) -> tuple[LabelArray, LabelArray]:
    """Index of the tissue, and label, of every voxel."""
    squeeze = 1 - phase * (1 - heart.contraction)
    hx = x - heart.centre[0] - heart.drift[0] * t
    hy = y - heart.centre[1] - heart.drift[1] * t
    distance, angle = np.hypot(hx, hy), np.arctan2(hy, hx) - heart.septum
    wave = 1 + sum(size * np.cos(order * angle + turn + t) for order, (size, turn) in enumerate(heart.waves, start=2))
    inner = heart.radius * squeeze * np.sqrt(1 - 0.9 * t**2) * wave
    outer = inner + heart.wall * (1 + 0.35 * phase) * (1 - 0.3 * t)
    ventricle, cavity = distance < outer, distance < inner

    # The RV's long way lies across the septum's direction. It ends before the apex.
    reach = heart.rv * (heart.radius + heart.wall) * (1 - 0.2 * phase) * np.sqrt(np.clip(1 - (t / 0.85) ** 2, 0, 1))
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    place = ((along - 0.8 * heart.radius - 0.5 * heart.wall) / (0.95 * reach + 1e-3)) ** 2
    right = place + (across / (1.25 * reach + 1e-3)) ** 2
    rv = (right < 1) & ~ventricle & (reach > 3.0)
    rv_wall = (right < 1.25) & (reach > 3.0)

    tissue = _chest(heart, x, y, t)
    tissue[(right < 1.5) & (reach > 3.0)] = _TISSUES.index("fat")  # in the groove round the RV
    tissue[rv_wall | ventricle] = _TISSUES.index("muscle")
    tissue[rv | cavity] = _TISSUES.index("blood")
    tissue[_papillary(heart, inner, distance, angle, t)] = _TISSUES.index("muscle")  # labelled as cavity, as in ACDC
    label = np.zeros(tissue.shape, np.uint8)
    label[rv], label[ventricle], label[cavity] = _RV, _MYOCARDIUM, _LV
    return tissue, label


def _papillary(
    heart: _Heart, inner: FloatArray, distance: FloatArray, angle: FloatArray, t: FloatArray
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Two muscles at mid-height, on the side away from the septum."""
    inside = np.zeros(distance.shape, bool)
    for direction in (2.0, -2.2):
        gap = distance**2 + (0.6 * inner) ** 2 - 1.2 * distance * inner * np.cos(angle - direction)
        inside |= (gap < (0.17 * heart.radius) ** 2) & (t > 0.25) & (t < 0.75)
    return inside


def _chest(heart: _Heart, x: FloatArray, y: FloatArray, t: FloatArray) -> LabelArray:
    """Everything round the heart, by tissue. The liver rises and the vessels end on the way to the apex."""
    a, b = heart.body
    edge = (x / a) ** 2 + (y / b) ** 2 + 0 * t
    tissue = np.full(edge.shape, _TISSUES.index("air"), np.uint8)

    def paint(name: str, where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
        tissue[where & (edge < 0.72)] = _TISSUES.index(name)

    tissue[edge < 1] = _TISSUES.index("fat")
    tissue[edge < 0.85] = _TISSUES.index("muscle")
    for side in (-1.0, 1.0):
        paint("lung", ((x - 0.52 * side * a) / (0.42 * a)) ** 2 + ((y + 0.1 * b) / (0.62 * b)) ** 2 < 1 + 0 * t)
    paint("liver", ((x + 0.5 * a) / (0.75 * a)) ** 2 + ((y + 0.9 * b) / (1.3 * b * t + 1e-3)) ** 2 < 1)
    paint("fat", ((x - 0.55 * a) / 26.0) ** 2 + ((y + 0.35 * b) / (30.0 * t + 1e-3)) ** 2 < 1)  # stomach, as bright
    paint("bone", x**2 + (y + 0.72 * b) ** 2 < 15.0**2 + 0 * t)
    paint("blood", (x - 22.0) ** 2 + (y + 0.55 * b) ** 2 < 10.0**2 + 0 * t)  # descending aorta
    atrium = heart.centre - np.array([-6.0, 34.0], np.float32)
    paint("blood", ((x - atrium[0]) / 26.0) ** 2 + ((y - atrium[1]) / 14.0) ** 2 < 1 - 6 * t)
    return tissue


def _texture(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Smooth noise with a standard deviation of about 1, a few pixels wide."""
    coarse = rng.standard_normal((-(-shape[0] // 3), -(-shape[1] // 3), shape[2]), dtype=np.float32)
    fine = coarse.repeat(3, axis=0).repeat(3, axis=1)[: shape[0], : shape[1]]
    smooth: FloatArray = gaussian_filter(fine, (1.5, 1.5, 0.0)) * np.float32(1.6)
    return smooth


def _shading(rng: np.random.Generator, bias: float, x: FloatArray, y: FloatArray, t: FloatArray) -> FloatArray:
    """A smooth positive field: brighter near one side, as with surface coils."""
    a, b, c, d = rng.uniform(-1.0, 1.0, 4).astype(np.float32)
    field: FloatArray = np.exp(np.float32(bias) * (a * x + b * y + 0.5 * c * x * y + 0.3 * d * (t - 0.5)))
    return field
