"""Miniature trees in the layouts of published data sets: pictures of 12x10 pixels, masks with one defect at a place of
its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 12, 10


def picture(path: Path) -> None:
    """Each of its own colours, by its name and place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(byte * place for place, byte in enumerate("/".join(path.parts[-4:]).encode(), start=1))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def mask(path: Path, *marked: tuple[int, int], value: int = 255) -> None:
    """Grey, black but for the pixels (row, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for place in marked:
        pixels[place] = value
    Image.fromarray(pixels).save(path)


def visa(root: Path, category: str = "candle") -> None:
    """As the archive unpacks: 4 to train on, 3 sound and 3 defective to test, masks with the number of the kind."""
    rows, kinds = ["object,split,label,image,mask"], ["image,label,mask"]
    for number in range(7):
        name = f"{category}/Data/Images/Normal/{number:04d}.JPG"
        picture(root / name)
        rows.append(f"{category},{'train' if number < 4 else 'test'},normal,{name},")
        kinds.append(f"{name},normal,")
    for number, label in enumerate(("Bent", "melt", '"Bent,melt"')):
        name, own = (
            f"{category}/Data/Images/Anomaly/{number:03d}.JPG",
            f"{category}/Data/Masks/Anomaly/{number:03d}.png",
        )
        picture(root / name)
        mask(root / own, (number, 0), value=1 + number)
        rows.append(f"{category},test,anomaly,{name},{own}")
        kinds.append(f"{name},{label},{own}")
    (root / "split_csv").mkdir(exist_ok=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    (root / category / "image_anno.csv").write_text("\n".join(kinds) + "\n")


def visa_rearranged(root: Path, category: str = "candle") -> None:
    """As the authors' prepare_data.py leaves it."""
    folder = root / "1cls" / category
    for place, count in (("train/good", 4), ("test/good", 3), ("test/bad", 3)):
        for number in range(count):
            picture(folder / place / f"{number:04d}.JPG")
    for number in range(3):
        mask(folder / "ground_truth/bad" / f"{number:04d}.png", (number, 0))


def btad(root: Path, category: str = "03") -> None:
    """Pictures as BMP, masks as PNG."""
    folder = root / "BTech_Dataset_transformed" / category
    for place, count in (("train/ok", 4), ("test/ok", 3), ("test/ko", 3)):
        for number in range(count):
            picture(folder / place / f"{number:04d}.bmp")
    for number in range(3):
        mask(folder / "ground_truth/ko" / f"{number:04d}.png", (number, 0))


def mvtec_loco(root: Path, category: str = "pushpins", times: int = 1) -> None:
    """Picture 000 of logical_anomalies has two masks, in different corners; `times` as many pictures."""
    folder = root / category
    for place, count in (("train/good", 4), ("validation/good", 2), ("test/good", 3)):
        for number in range(count * times):
            picture(folder / place / f"{number:03d}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for number in range(2 * times):
            picture(folder / "test" / kind / f"{number:03d}.png")
            mask(folder / "ground_truth" / kind / f"{number:03d}/000.png", (number % HEIGHT, 0), value=248)
    mask(folder / "ground_truth/logical_anomalies/000/001.png", (HEIGHT - 1, WIDTH - 1), value=200)


def mvtec_3d(root: Path, category: str = "bagel") -> None:
    """With depth beside the colours, and masks of normals, which are black."""
    folder = root / category
    for place, count in (
        ("train/good", 4),
        ("validation/good", 2),
        ("test/good", 3),
        ("test/crack", 2),
        ("test/hole", 2),
    ):
        for number in range(count):
            picture(folder / place / f"rgb/{number:03d}.png")
            (folder / place / "xyz").mkdir(exist_ok=True)
            (folder / place / f"xyz/{number:03d}.tiff").write_bytes(b"positions")
            if place.startswith("test"):
                marked = () if place == "test/good" else ((number, 0),)
                mask(folder / place / f"gt/{number:03d}.png", *marked)


def mvtec_ad_2(root: Path, category: str = "vial") -> None:
    """One scene under two lights."""
    folder = root / category
    for place, count in (("train/good", 4), ("validation/good", 2), ("test_public/good", 3), ("test_public/bad", 3)):
        for number in range(count):
            picture(folder / place / f"{number // 2:03d}_{('regular', 'shift_1')[number % 2]}.png")
    for path in (folder / "test_public/bad").iterdir():
        mask(folder / "test_public/ground_truth/bad" / f"{path.stem}_mask.png", (1, 1))
    picture(folder / "test_private/000_regular.png")


def dagm(root: Path, category: str = "Class1") -> None:
    """With a defective picture in Train."""
    for part, count, defective in (("Train", 5, (4,)), ("Test", 6, (1, 3, 5))):
        folder, lines = root / category / part, ["1"]
        for number in range(count):
            name = f"{number + 1:04d}.PNG"
            picture(folder / name)
            is_defective = number in defective
            lines.append("\t".join((str(number + 1), str(int(is_defective)), name, "0", "")))
            if is_defective:
                mask(folder / "Label" / f"{number + 1:04d}_label.PNG", (number, 0))
                lines[-1] += f"{number + 1:04d}_label.PNG"
        (folder / "Label/Labels.txt").write_text("\n".join(lines) + "\n")


def kolektor_sdd(root: Path, items: int = 6) -> None:
    """Of each commutator three surfaces, the second of them defective."""
    for item in range(1, items + 1):
        for part in range(3):
            picture(root / f"kos{item:02d}/Part{part}.jpg")
            mask(root / f"kos{item:02d}/Part{part}_label.bmp", *((item % HEIGHT, 0),) * (part == 1))


def kolektor_sdd2(root: Path) -> None:
    """With a defective picture in train."""
    for part, count, defective in (("train", 5, (2,)), ("test", 5, (1, 3))):
        for number in range(count):
            picture(root / part / f"{10000 + number}.png")
            mask(root / part / f"{10000 + number}_GT.png", *((number, 0),) * (number in defective))
    picture(root / "train/10000 (copy).png")
    mask(root / "train/10000_GT (copy).png")


def robustad(root: Path, *, tests: int = 6) -> None:
    """PCB, with an anomaly in train. Masks are named by where they lay on the disk of the one who wrote the table."""
    for part in ("train", *(f"test{number}" for number in range(tests))):
        folder, rows = root / f"PCB/pcb_data_dir_{part}", []
        for number in range(4):
            picture(folder / f"normal/{number}.png")
            rows.append({"file_name": f"normal/{number}.png", "label": 0, "mask": None})
        for number in range(2):
            picture(folder / f"anomaly/{number}.png")
            mask(folder / f"masks/{number}.png", (number, 0))
            rows.append({"file_name": f"anomaly/{number}.png", "label": 1, "mask": f"/home/author/PCB/{number}.png"})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


TREES = {
    "visa": (visa, "candle"),
    "btad": (btad, "03"),
    "mvtec-loco": (mvtec_loco, "pushpins"),
    "mvtec-3d": (mvtec_3d, "bagel"),
    "mvtec-ad-2": (mvtec_ad_2, "vial"),
    "dagm": (dagm, "Class1"),
    "kolektor-sdd": (kolektor_sdd, "fold-1"),
    "kolektor-sdd2": (kolektor_sdd2, "all"),
    "robustad": (robustad, "PCB-test1"),
}
