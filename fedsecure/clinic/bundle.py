"""A released model as a MONAI bundle: a folder that MONAI runs without fedsecure, checked against fedsecure's answer.

    configs/metadata.json     what it is
    configs/inference.json    network, and every step before and after it, in MONAI's transforms
    models/model.safetensors  weights under MONAI's names; no pickle
    docs/README.md            the model card

`monai.bundle.run(config_file="configs/inference.json", bundle_root=".", images=["a.nii.gz"])` writes labels to eval/;
`python -m monai.bundle run` with these options does, too, where the library fire is installed. A bundle's configuration
is code to whoever runs it; fedsecure runs only what it has just written itself.
"""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

from fedsecure.clinic.card import INTENDED_USE, OUTSIDE_THE_GATE, to_markdown
from fedsecure.clinic.released import ReleasedModel, field_of_view
from fedsecure.clinic.segment import Segmenting
from fedsecure.config import DataSettings, ModelSettings
from fedsecure.data.nifti import NiftiReader, write
from fedsecure.data.volume import STORED
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.packing import pack_model
from fedsecure.types import Tensors

UNLIKE: Final = 2e-3  # share of voxels that may differ: at ties, and at the edge of what the network sees
_PADDING: Final = -1e6  # below any normalised value, so that it is told from the image and becomes its minimum
_NAMES: Final = (
    (r"^encoder\.levels\.0\.", "conv_0."),
    (r"^encoder\.levels\.(\d)\.", r"down_\1."),
    (r"^decoder\.levels\.0\.", "upcat_4."),
    (r"^decoder\.levels\.1\.", "upcat_3."),
    (r"^decoder\.levels\.2\.", "upcat_2."),
    (r"^decoder\.levels\.3\.", "upcat_1."),
    (r"^decoder\.final\.", "final_conv."),
)


def write_bundle(model: ReleasedModel, folder: Path) -> None:
    """Write the bundle into a new folder and run it once. Raises SettingsError for an encoder, a folder that is there,
    or where MONAI's answer is not fedsecure's."""
    segmenter = model.segmenter()
    if folder.exists():
        raise SettingsError("the folder for the bundle is there already: name another one, nothing is overwritten")
    manifest = model.manifest
    files = {
        "configs/metadata.json": _json(_metadata(model)),
        "configs/inference.json": _json(_inference(manifest.data, manifest.model)),
        "models/model.safetensors": pack_model(monai_names(model.tensors)),
        "docs/README.md": to_markdown(
            manifest.card, model.id, manifest.kind, manifest.structures, field_of_view(manifest.data)
        ).encode(),
    }
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, raw)
    if (unlike := _unlike(Segmenting.of(segmenter, manifest.data), folder)) > UNLIKE:
        raise SettingsError(f"the bundle does not answer as the model does: {100 * unlike:.2f} % of voxels differ")


def monai_names(tensors: Tensors) -> Tensors:
    """The weights under the names of MONAI's BasicUNet."""

    def renamed(name: str) -> str:
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        return name

    return {renamed(name): value for name, value in tensors.items()}


def _inference(data: DataSettings, model: ModelSettings) -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "images": [],
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cpu')",
        "weights": {
            "_target_": "safetensors.torch.load_file",
            "filename": "$@bundle_root + '/models/model.safetensors'",
        },
        "network_def": _network(data, model),
        "network": "$(@network_def.load_state_dict(@weights), @network_def.to(@device).eval())[1]",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(data)},
        # Square slices [1, X, Y, Z] -> probabilities [C, S, S, Z] on the network's pixels
        "inferer": "$lambda x: @network(torch.nn.functional.interpolate(x.as_tensor().permute(3, 0, 2, 1), "
        f"({data.size}, {data.size}), mode='bilinear', antialias=True, align_corners=False).to(@device))"
        ".softmax(1).permute(1, 3, 2, 0).cpu()",
        # Where those pixels lie: edges on edges
        "pixels": "$lambda x: torch.matmul(x.affine, torch.tensor("
        f"[[s := x.shape[1] / {data.size}, 0, 0, (s - 1) / 2], "
        "[0, s, 0, (s - 1) / 2], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=x.affine.dtype))",
        # Probabilities go to the file's own grid before a class is chosen; they fade where the network did not look
        "to_file": "$lambda p, x, stored: monai.transforms.SpatialResample(mode='bilinear', padding_mode='zeros')("
        "monai.data.MetaTensor(p, affine=@pixels(x)), dst_affine=stored.affine, spatial_size=stored.shape[1:])"
        ".as_tensor()",
        "classes": "$lambda p: (p.argmax(0, keepdim=True) * (p.sum(0, keepdim=True) > 0.5)).to(torch.uint8)",
        "segment": "$lambda path: (lambda d: monai.data.MetaTensor(@classes(@to_file(torch.no_grad()(@inferer)("
        "d['image']), d['image'], d['stored'])), meta=d['stored'].meta))(@preprocessing({'image': path}))",
        "saver": {
            "_target_": "SaveImage",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$numpy.uint8",
            "resample": False,
            "separate_folder": False,
            "print_log": False,
        },
        "imports": ["$import torch", "$import numpy", "$import monai"],
        "run": ["$[@saver(@segment(path)) for path in @images]"],
    }


def _network(data: DataSettings, model: ModelSettings) -> dict[str, Any]:
    f = model.filters
    norm = ["group", {"num_groups": 4}] if model.norm == "group" else ["instance", {"affine": True}]
    return {
        "_target_": "BasicUNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1 + len(data.structures),
        "features": [f, 2 * f, 4 * f, 8 * f, 16 * f, f],
        "act": ["LeakyReLU", {"negative_slope": 0.1, "inplace": False}],
        "norm": norm,
    }


def _preprocessing(data: DataSettings) -> list[dict[str, Any]]:
    """The steps of `data.volume`, in its order."""

    def step(name: str, **settings: object) -> dict[str, Any]:
        return {"_target_": name, "keys": "image", **settings}

    steps = [
        step("LoadImaged", reader="NibabelReader"),
        step("EnsureChannelFirstd", channel_dim="no_channel"),
        step("CopyItemsd", times=1, names="stored"),
    ]
    if data.orientation != STORED:
        axes = [["L", "R"], ["P", "A"], ["I", "S"]]
        steps.append(step("Orientationd", axcodes=data.orientation, labels=axes))
    if data.spacing_mm is not None:
        y, x = data.spacing_mm
        steps.append(step("Spacingd", pixdim=[x, y, -1.0], mode="bilinear", padding_mode="border"))
    if data.crop is not None:
        steps.append(step("CenterSpatialCropd", roi_size=[data.crop, data.crop, -1]))
    side = str(data.crop) if data.crop is not None else "max(x.shape[1:3])"
    square = f"$lambda x: monai.transforms.SpatialPad(({side}, {side}, -1), value={_PADDING})(x)"
    return [
        *steps,
        step("ClipIntensityPercentilesd", lower=1, upper=99),
        step("NormalizeIntensityd"),
        step("Lambdad", func=square, track_meta=False),
        step("Lambdad", func=f"$lambda x: torch.maximum(x, x[x > {_PADDING / 10}].min())", track_meta=False),
    ]


def _metadata(model: ReleasedModel) -> dict[str, Any]:
    manifest = model.manifest
    card, size = manifest.card, manifest.data.size
    classes = {"0": "background"} | {str(i): name for i, name in enumerate(manifest.structures, start=1)}
    plane = {
        "type": "image", "format": "magnitude", "modality": card.modality, "num_channels": 1,
        "spatial_shape": [size, size], "dtype": "float32", "value_range": [], "is_patch_data": False,
        "channel_def": {"0": "image"},
    }  # fmt: skip
    drawn = plane | {
        "type": "probabilities", "format": "segmentation", "num_channels": len(classes), "value_range": [0, 1],
        "channel_def": classes,
    }  # fmt: skip
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by fedsecure {version('fedsecure')}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("nibabel", "safetensors")},
        "name": card.name,
        "task": "segmentation of " + ", ".join(manifest.structures),
        "description": f"fedsecure model {model.id}. {OUTSIDE_THE_GATE}",
        "authors": "the sites of the study, see docs/README.md",
        "copyright": "see docs/README.md",
        "data_type": "nibabel",
        "intended_use": INTENDED_USE,
        "network_data_format": {"inputs": {"image": plane}, "outputs": {"pred": drawn}},
    }


def _unlike(segmenting: Segmenting, folder: Path) -> float:
    """Share of voxels of a made-up volume, stored with axes of its own, that MONAI and fedsecure label differently."""
    from monai.bundle import ConfigParser

    affine = np.array([[0, -1.4, 0, 60.0], [1.1, 0, 0, -40], [0, 0, -6.0, 20], [0, 0, 0, 1]])
    if segmenting.data.orientation == STORED:
        affine = np.diag([1.4, 1.1, 6.0, 1.0])
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((12, 10, 5)).repeat(8, 0).repeat(8, 1)
    with tempfile.TemporaryDirectory(prefix="fedsecure-bundle-") as temporary:
        file = Path(temporary) / "volume.nii.gz"
        write(file, (100 + 20 * coarse + rng.standard_normal(coarse.shape)).astype(np.float32), affine)
        parser = ConfigParser()
        parser.read_config(folder / "configs/inference.json")
        parser["bundle_root"] = str(folder)
        with _quiet(), torch.inference_mode():
            theirs = np.asarray(parser.get_parsed_content("segment")(str(file)))[0]
        ours = segmenting.labels(NiftiReader().read(file, None), file)
    return float((theirs != ours).mean())


@contextmanager
def _quiet() -> Iterator[None]:
    """MONAI tells of every optional reader that is not installed."""
    logger = logging.getLogger("monai")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _json(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
