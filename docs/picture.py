"""Draw the README's picture from a run of the demo: `python docs/picture.py runs/demo docs/images/before-after.png`."""

import argparse
import json
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

COLUMNS, SIDE, GAP, MARGIN = 8, 128, 8, 84


def main() -> None:
    """Eight held-out prompts: the base above, the tuned model below, each pair from the same noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of `srpo run`")
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    rows = []
    for table in sorted((arguments.run / "kfp").rglob("samples.parquet")):
        rows += [row | {"folder": table.parent} for row in pq.read_table(table).to_pylist() if not row["noise_index"]]
    if not rows:
        parser.error(f"{arguments.run} holds no samples: it must be the output folder of a finished `srpo run`")
    prompts = sorted({row["prompt"] for row in rows})
    chosen = [prompts[number * len(prompts) // COLUMNS] for number in range(COLUMNS)]
    width = MARGIN + COLUMNS * (SIDE + GAP)
    canvas = Image.new("RGB", (width, 2 * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=20)
    for line, (model, label) in enumerate((("base", "before"), ("tuned", "after"))):
        draw.text((4, line * (SIDE + GAP) + SIDE // 2 - 12), label, fill="#333333", font=font)
        for column, prompt in enumerate(chosen):
            row = next(row for row in rows if row["prompt"] == prompt and row["model"] == model)
            with Image.open(row["folder"] / row["image"]) as image:
                square = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(square, (MARGIN + column * (SIDE + GAP), line * (SIDE + GAP)))
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(arguments.picture, optimize=True)
    print(json.dumps({"picture": str(arguments.picture), "prompts": chosen}, indent=1))


if __name__ == "__main__":
    main()
