"""Drawn people in the layouts of the sets for pre-training."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np


def drawn(synthetic):
    """The folder of photos, and the rows of 60 of them."""
    base = synthetic.root / "CUHK-PEDES"
    return base / "imgs", json.loads((base / "reid_raw.json").read_text())[:60]


def link(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.hardlink_to(source)


def write_synthpedes(root, imgs, rows):
    """As the example in the authors' README."""
    new, folder = [], root / "SYNTH-PEDES"
    for number, row in enumerate(rows):
        path = f"Part{1 + number % 3}/{row['id']}/{number}.jpg"
        link(imgs / row["file_path"], folder / path)
        more = {"attributes": ["man,unknown"], "prompt_caption": ["A man."]}
        new.append({"id": row["id"], "file_path": path, "captions": row["captions"], **more})
    (folder / "synthpedes_dataset.json").write_text(json.dumps(new, indent=4))
    return {(folder / row["file_path"], text): row["id"] for row in new for text in row["captions"]}


def write_luperson(root, imgs, rows):
    """Four files in which a photo has other folders and places; one caption has an open template."""
    files = {name: {} for name in ("Ts-qwen", "Td-qwen", "Ts-shikra", "Td-shikra")}
    folder, expected = root / "LUPerson-MLLM", {}
    for number, row in enumerate(rows):
        link(imgs / row["file_path"], folder / "images" / f"{number}.jpg")
    for turn, (name, content) in enumerate(files.items()):
        for number in np.random.default_rng(turn).permutation(len(rows)).tolist():
            text = f"{name}: {rows[number]['captions'][turn % 2]}"
            if (number + turn) % 7 == 0:
                text = "The man wears [clothing description]." if turn % 2 else "A <attribute> man."
            else:
                expected[folder / "images" / f"{number}.jpg", text] = number
            content[f"/data/part{turn}/{number}.jpg"] = text
    (folder / "captions").mkdir()
    for name, content in files.items():
        (folder / "captions" / f"{name}.json").write_text(json.dumps(content))
    return expected


def write_mals(root, imgs, rows):
    folder, expected = root / "MALS", {}
    (folder / "gene_attrs").mkdir(parents=True)
    for part in range(3):
        new = []
        for number, row in list(enumerate(rows))[part::3]:
            path = f"gene_crop/c_g_a_{part}/{number}.jpg"
            link(imgs / row["file_path"], folder / path)
            own = {"image": path, "caption": row["captions"][0], "image_id": f"c_g_a_{part}_{number}", "label": [1, -1]}
            new.append(own)
            expected[folder / path, row["captions"][0]] = number
        (folder / "gene_attrs" / f"g_c_g_a_{part}_attrs.json").write_text(json.dumps(new))
    return expected


def write_webperson(root, imgs, rows):
    folder, new, expected = root / "WebPerson", [], {}
    for number, row in enumerate(rows):
        name = f"{number % 5}/{number}_é.jpg"
        link(imgs / row["file_path"], folder / "images" / name)
        new.append({name: {"caption1": f"{row['captions'][0]}/n", "caption2": row["captions"][1]}})
        expected |= {(folder / "images" / name, text): number for text in row["captions"]}
    (folder / "100w.json").write_text(json.dumps(new, ensure_ascii=False))
    return expected


WRITERS = {
    "synthpedes": write_synthpedes,
    "luperson_mllm": write_luperson,
    "mals": write_mals,
    "webperson": write_webperson,
}


def pack(folder, per_shard):
    """Shards of this many images by the commands of docs/pretraining.md; the images in folders are removed."""
    page = (Path(__file__).parents[1] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```bash\n(mkdir shards\n.*?)```", page, flags=re.DOTALL)
    files = list(folder.rglob("*.jpg"))
    commands = commands.replace("2000", str(per_shard)).replace("shuf", "sort -t_ -k2")  # the same in each test
    subprocess.run(["bash", "-ec", commands], cwd=folder, check=True)
    for path in files:
        path.unlink()
