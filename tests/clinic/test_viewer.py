"""The viewer's page, in a browser: it shows the right slice, works by keys alone, and asks nobody for anything."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedsecure.clinic.viewer import MOST_VOXELS, write_page
from fedsecure.clinic.viewer import _step as step
from fedsecure.data.layout import Raw

from .browser import PROGRAM, Page, browse

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine: apt-get install chromium")
SHAPE, SPACING = (24, 20, 6), (1.5, 2.0, 8.0)
HOSTILE = 'a</script><img src="https://example.invalid/x">'


def frames() -> tuple[list[Raw], list[np.ndarray]]:
    """Two frames of an RAS body; structure 1 lies right, front and low, and grows from frame to frame."""
    raws, labels = [], []
    for t in range(2):
        label = np.zeros(SHAPE, np.uint8)
        label[16:22, 12 : 16 + t, 1] = 1
        label[4:8, 3:6, 2:4] = 2
        image = 100 + 50 * (label > 0) + np.random.default_rng(t).normal(0, 5, SHAPE)
        raws.append(Raw(image.astype(np.float32), np.diag([*SPACING, 1.0])))
        labels.append(label)
    return raws, labels


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "page.html"
    # Stored with its axes in another order: the page must turn them.
    raws, labels = frames()
    order = (2, 0, 1)
    turned = []
    for raw in raws:
        affine = raw.affine.copy()
        affine[:, :3] = raw.affine[:, order]
        voxels = raw.voxels.transpose(order)[:, ::-1]
        affine[:, 3] += affine[:, 1] * (voxels.shape[1] - 1)
        affine[:, 1] *= -1
        turned.append(Raw(np.ascontiguousarray(voxels), affine))
    drawn = [np.ascontiguousarray(label.transpose(order)[:, ::-1]) for label in labels]
    write_page(path, turned, drawn, ("lump", HOSTILE), "toy", "0" * 64)
    return path


@pytest.fixture(scope="module")
def page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browse(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(page_file)
        yield opened


def test_nothing_of_a_name_becomes_markup(page_file: Path) -> None:
    text = page_file.read_text()
    assert HOSTILE not in text
    assert "https:" not in re.sub(r'"structures":\[[^]]*\]|<li>.*?</li>', "", text, flags=re.DOTALL)


def test_a_long_scan_is_thinned_out_in_its_page() -> None:
    raw = Raw(np.zeros((8, 8, 8), np.float32), np.eye(4))
    assert step([raw]) == 1
    assert step([raw] * (4 * MOST_VOXELS // 512)) == 2


def status(page: Page) -> str:
    found: str = page.value("document.getElementById('status').textContent")
    return found


@needs_browser
def test_it_works_by_keys_alone(page: Page) -> None:
    area = round(6 * 4 * 1.5 * 2.0)
    assert status(page) == f"axial slice 2 of 6, frame 1 of 2: lump {area} mm²"
    page.press("ArrowRight")
    assert status(page) == f"axial slice 2 of 6, frame 2 of 2: lump {round(6 * 5 * 1.5 * 2.0)} mm²"
    page.press("ArrowRight")
    page.press("ArrowUp")
    assert status(page) == f"axial slice 3 of 6, frame 1 of 2: {HOSTILE} {round(4 * 3 * 1.5 * 2.0)} mm²"
    page.press("s")
    assert status(page).startswith("sagittal slice 13 of 24")
    page.press("c")
    assert status(page).startswith("coronal slice 11 of 20")
    page.press("Home")
    page.press("ArrowDown")
    assert status(page).startswith("coronal slice 1 of 20")
    page.press("End")
    assert status(page).startswith("coronal slice 20 of 20")
    page.press("a")
    assert page.value("document.getElementById('slice').getAttribute('aria-label')") == status(page)


@needs_browser
def test_pixels_lie_where_a_radiologist_expects_them(page: Page) -> None:
    """The patient's right is on the left, the front on top; orange where the first structure is drawn."""
    page.press("a")
    page.press("Home")
    page.press("ArrowUp")
    painted = page.value(
        """(() => {
        const c = document.getElementById('slice');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let x = 0, y = 0, n = 0;
        for (let i = 0; i < d.length; i += 4)
          if (d[i] > d[i + 2] + 40) { n++; x += (i / 4) % c.width; y += Math.floor(i / 4 / c.width); }
        return [x / n / c.width, y / n / c.height]; })()"""
    )
    # Voxels 16..21 of 24 towards R, 12..15 of 20 towards A
    np.testing.assert_allclose(painted, [1 - 19 / 24, 1 - 14 / 20], atol=0.03)
    shape = page.value("(c => c.width / c.height)(document.getElementById('slice'))")
    assert shape == pytest.approx(24 * 1.5 / (20 * 2.0), abs=0.01)


@needs_browser
def test_labels_can_be_hidden(page: Page, tmp_path: Path) -> None:
    seen = page.value("document.getElementById('slice').toDataURL()")
    page.press("o")
    page.press("o")
    assert page.value("document.getElementById('style').value") == "hidden"
    assert page.value("document.getElementById('slice').toDataURL()") != seen
    page.press("o")
    assert page.value("document.getElementById('slice').toDataURL()") == seen
    picture = base64.b64decode(page.call("Page.captureScreenshot")["data"])
    assert picture.startswith(b"\x89PNG")


@needs_browser
def test_it_asks_nobody_for_anything_and_complains_of_nothing(page: Page) -> None:
    assert [url for url in page.requests if not url.startswith(("file:", "about:", "data:"))] == []
    assert page.console == []
