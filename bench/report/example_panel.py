"""The paper's Figures 1 and 2: what an attack changes in the picture, in the reconstruction and in the anomaly map.

The only plot that contains dataset images; the licence they travel under is written beside it, in NOTICE.txt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from bench import files
from bench.errors import RecordError
from bench.metrics.ranking import Floats
from bench.records import limits
from bench.records.paths import EXAMPLES_SUFFIX, companion, safe_name
from bench.records.record import Record
from bench.report.fits import fit_seed
from bench.report.fonts import drawable
from bench.report.style import TEXT_WIDTH, is_drawn, save, style
from bench.text import one_line, threat_text
from detectors.checkpoint import write_atomically
from detectors.files import read_ordinary

NOTICE = "NOTICE.txt"
MAX_ROWS = 6
MOST_EXAMPLES = 64  # a cell keeps two


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of one cell; what the detector does not have is None.

    Attributes:
        image, adversarial, reconstruction, adversarial_reconstruction: uint8 (n, 3, S, S).
        anomaly_map, adversarial_map: float32 (n, S, S).
        labels: (n,), +1 normal, -1 anomalous.
        perturbation: (n, 3, S, S), adversarial minus image before rounding to bytes; without it the difference of the
            bytes is shown, in which a small l2 perturbation rounds to nothing.
        score, adversarial_score: (n,).
    """

    image: NDArray[np.uint8]
    adversarial: NDArray[np.uint8]
    labels: NDArray[np.int8]
    adversarial_reconstruction: NDArray[np.uint8] | None = None
    anomaly_map: Floats | None = None
    adversarial_map: Floats | None = None
    perturbation: Floats | None = None
    score: Floats | None = None
    adversarial_score: Floats | None = None
    reconstruction: NDArray[np.uint8] | None = None


def read_examples(path: Path) -> Examples:
    """Raises RecordError where the file is missing, damaged, or holds tensors of the wrong shape or type."""
    try:
        tensors = load(read_ordinary(path, limits.EXAMPLES_BYTES))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RecordError(f"The examples {path} cannot be read ({files.why(error)}); run the cell again.") from None
    image = tensors.get("image")
    if image is None or image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or not image.size:
        raise RecordError(f"The examples {path} hold no images of the shape (n, 3, S, S); run the cell again.")
    count, side = len(image), image.shape[-1]
    shapes = {
        **dict.fromkeys(
            ("image", "adversarial", "reconstruction", "adversarial_reconstruction"), ("u", (count, 3, side, side))
        ),
        "perturbation": ("f", (count, 3, side, side)),
        **dict.fromkeys(("map", "adversarial_map"), ("f", (count, side, side))),
        **dict.fromkeys(("score", "adversarial_score"), ("f", (count,))),
        "labels": ("i", (count,)),
    }
    for name, (kind, shape) in shapes.items():
        needed = name in ("image", "adversarial", "labels")
        tensor = tensors.get(name)
        if (tensor is None and needed) or (tensor is not None and (tensor.dtype.kind, tensor.shape) != (kind, shape)):
            raise RecordError(
                f"The examples {path} lack a usable tensor {name!r} of shape {shape}; run the cell again."
            )

    if not np.isin(tensors["labels"], (-1, 1)).all():
        raise RecordError(f"The examples {path} have labels other than 1 and -1; run the cell again.")
    if "perturbation" in tensors and not np.isfinite(tensors["perturbation"]).all():
        raise RecordError(f"The examples {path} have a perturbation that is not finite; run the cell again.")

    def number(name: str) -> Floats | None:
        return tensors[name].astype(np.float64) if name in tensors else None

    return Examples(
        tensors["image"],
        tensors["adversarial"],
        tensors["labels"],
        tensors.get("adversarial_reconstruction"),
        number("map"),
        number("adversarial_map"),
        number("perturbation"),
        number("score"),
        number("adversarial_score"),
        tensors.get("reconstruction"),
    )


def has_examples(record: Record) -> bool:
    """Whether there are examples beside the record."""
    return record.path is not None and companion(record.path, EXAMPLES_SUFFIX).is_file()


def examples_of(record: Record) -> Examples:
    """The examples beside a record that has some. Raises RecordError where they are damaged, or not the record's."""
    assert record.path is not None
    path = companion(record.path, EXAMPLES_SUFFIX)
    examples = read_examples(path)
    if examples.image.shape[-1] > record.image_size or len(examples.image) > MOST_EXAMPLES:
        raise RecordError(
            f"The examples {path} are {len(examples.image)} pictures of {examples.image.shape[-1]} pixels, and the "
            f"record's are {MOST_EXAMPLES} at most of {record.image_size}; run the cell again."
        )
    return examples


def write_panel(record: Record, folder: Path) -> list[Path]:
    """The panel of a record that has examples beside it, and its line in NOTICE.txt; [] where it has none.

    A panel that was drawn from this record stays as it is.

    Raises:
        RecordError: the examples are damaged, or not the record's.
        DiskError: the folder cannot be written to.
    """
    if record.path is None or not has_examples(record):
        return []
    stem = f"panel--{safe_name(record.dataset)}--{safe_name(record.category)}--{record.path.name.removesuffix('.json')}"
    # The notice first: a picture without its licence must not exist, not even after a kill.
    notice = add_notice(folder / NOTICE, stem, record)
    picture = folder / f"{stem}.png"
    if is_drawn(picture, record.stamp):
        return [picture, notice]
    return [*save(panel_figure(record, examples_of(record)), folder / stem, source=record.stamp), notice]


def add_notice(path: Path, stem: str, record: Record) -> Path:
    """Write under which licence the pictures called `stem` travel. Raises DiskError where the disk refuses."""
    head = "The pictures in this folder are made from dataset images and carry their licence, not that of the code:"
    line = f"{stem}: {one_line(record.dataset)}, {one_line(record.licence) or 'licence not known: do not pass it on'}"
    with files.writing(path.parent):
        known = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        kept = [old for old in known if old and old != head and not old.startswith(f"{stem}: ")]
        write_atomically(path, "\n".join([head, *sorted([*kept, line])]).encode(errors="replace") + b"\n")
    return path


def panel_figure(record: Record, examples: Examples) -> Figure:
    """Columns: image, perturbation magnified around grey, attacked image, its reconstruction, anomaly map before and
    after. Normal rows first. All maps share one colour scale, so that a map that the attack flattened looks flat."""
    rows = _chosen(examples.labels)
    delta = perturbation_of(examples)
    factor = magnification(delta[rows])
    pictures: list[tuple[str, NDArray[np.uint8] | Floats | None, bool]] = [
        ("image", examples.image, False),
        (f"perturbation ×{factor:g}", np.clip(0.5 + factor * delta, 0, 1), False),  # noqa: RUF001
        ("attacked image", examples.adversarial, False),
        ("reconstruction\nof the attacked", examples.adversarial_reconstruction, False),
        ("anomaly map,\nclean", examples.anomaly_map, True),
        ("anomaly map,\nattacked", examples.adversarial_map, True),
    ]
    shown = [(title, data, is_map) for title, data, is_map in pictures if data is not None]
    top = _common_top([m[rows] for m in (examples.anomaly_map, examples.adversarial_map) if m is not None])
    with style():
        figure, grid, bar = _grid(
            len(rows), len(shown), has_scores=examples.score is not None, has_bar=any(is_map for *_, is_map in shown)
        )
        mappable = None
        for y, index in enumerate(rows):
            for x, (title, data, is_map) in enumerate(shown):
                axes: Axes = grid[y, x]
                if is_map:
                    mappable = axes.imshow(np.nan_to_num(data[index]), cmap="cividis", vmin=0, vmax=top)
                else:
                    axes.imshow(data[index].transpose(1, 2, 0))
                axes.set_xticks([], [])
                axes.set_yticks([], [])
                axes.spines[:].set_visible(False)
                if y == 0:
                    axes.set_title(title, fontsize=8, pad=3)
            grid[y, 0].set_ylabel("normal" if examples.labels[index] == 1 else "anomalous", fontsize=8)
            for x, score in ((0, examples.score), (2, examples.adversarial_score)):
                if score is not None:
                    grid[y, x].set_xlabel(f"score {score[index]:.3g}", fontsize=7, labelpad=2)
        if mappable is not None:
            legend = figure.colorbar(mappable, cax=figure.add_axes(bar), extend="max")
            legend.ax.ticklabel_format(axis="y", scilimits=(-2, 3))  # long numbers would leave the figure
        threat = threat_text(record.epsilon, record.norm, short=True)
        figure.suptitle(
            f"{drawable(record.detector_title, 24)}, {drawable(record.dataset, 20)} {drawable(record.category, 24)}, "
            f"{drawable(record.attack_name, 24)}, {drawable(threat, 40)}, "
            f"fit {fit_seed(record)}",
            fontsize=8.5,
            y=1 - 0.06 / figure.get_figheight(),
        )
    return figure


def _grid(
    rows: int, columns: int, *, has_scores: bool, has_bar: bool
) -> tuple[Figure, NDArray[Any], tuple[float, float, float, float]]:
    """A figure, its axes (rows, columns), and where its colour bar belongs. With margins in inches: there is one such
    figure per cell, and a computed layout takes half of the time."""
    side = (TEXT_WIDTH - 0.8) / 6  # the full set of columns fills the text width
    step = side * 0.96 + 0.2 * has_scores  # from row to row; below a picture there is its score
    width, height = side * columns + 0.8, step * rows + 0.62
    figure = Figure(figsize=(width, height))
    left, top, picture = 0.24 if has_bar else 0.48, height - 0.53, side * 0.93
    right, bottom = left + side * columns - (side - picture), top - step * rows + (step - picture)
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": right / width,
            "top": top / height,
            "bottom": bottom / height,
            "wspace": (side - picture) / picture,
            "hspace": (step - picture) / picture,
        },
    )
    return figure, grid, ((right + 0.08) / width, bottom / height, 0.1 / width, (top - bottom) / height)


def _chosen(labels: NDArray[np.int8]) -> list[int]:
    """Up to MAX_ROWS images, as many of each class as there are, normal ones first."""
    normal, anomalous = (np.flatnonzero(labels == label).tolist() for label in (1, -1))
    half = MAX_ROWS // 2
    few_anomalies, few_normals = max(half, MAX_ROWS - len(anomalous)), max(half, MAX_ROWS - len(normal))
    return [*normal[:few_anomalies], *anomalous[:few_normals]]


def perturbation_of(examples: Examples) -> Floats:
    """What the attack added, (n, 3, S, S) on the [0, 1] scale."""
    if examples.perturbation is not None:
        return examples.perturbation
    return examples.adversarial.astype(np.float64) / 255 - examples.image.astype(np.float64) / 255


def magnification(delta: Floats) -> float:
    """A round factor that makes the largest change fill about half the range of grey."""
    largest = float(np.abs(delta).max())
    if largest == 0.0:
        return 1.0
    return max(1.0, float(5 * int(0.1 / max(largest, 1e-9))))


def _common_top(maps: list[Floats]) -> float:
    """The 99.8 % quantile of all shown maps: one hot pixel must not darken the rest."""
    values = np.concatenate([m.ravel() for m in maps]) if maps else np.ones(1)
    finite = values[np.isfinite(values)]
    return max(float(np.quantile(finite, 0.998)) if finite.size else 1.0, 1e-12)
