"""Which tiles a packed row needs, from the tables that the kernels read: docs/attention_tiles.svg, and shares for many rows.

python -m benchmarks.attention_picture

The shares (benchmarks/results/attention_tiles.json) are of simulated rows: lognormal document lengths, sigma 1.2, a given mean.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from benchmarks.attention import Shape, segment_ids
from ja_llm.attention.spans import packed_spans, query_tiles, visited
from ja_llm.files import atomic_write, write_json

HERE = Path(__file__).resolve().parent
OUTPUT, RESULTS = HERE.parent / "docs" / "attention_tiles.svg", HERE / "results" / "attention_tiles.json"
ROWS, LENGTHS, MEANS, TILES = 64, (4096, 8192, 32768), (500, 1000, 2000), (128, 256, 512, 1024)
LENGTH, TILE, DOCUMENTS, WINDOW = 4096, 128, (330, 1410, 90, 620, 200, 1100, 346), 512
CELL, GAP, TOP, LEFT = 9, 70, 62, 24
COLOURS = {"full": "#1f6f8b", "masked": "#8cc7d9", "skipped": "#e9e4d8"}
WORDS = {"full": "computed without a mask", "masked": "computed with the mask", "skipped": "causal, but not computed"}


def panel(x: int, title: str, window: int | None) -> list[str]:
    """One matrix at `x`, as SVG elements."""
    ids = np.zeros((1, LENGTH), np.int32)
    ids[0, : sum(DOCUMENTS)] = np.repeat(np.arange(1, len(DOCUMENTS) + 1), DOCUMENTS)
    table = np.asarray(query_tiles(packed_spans(jnp.asarray(ids), 1, LENGTH, True, window), TILE, TILE, LENGTH))[0]
    count, squares = LENGTH // TILE, dict.fromkeys(COLOURS, "")
    computed = 0
    for i, (lo, full_lo, full_hi, hi) in enumerate(table):
        for j in range(i + 1):
            kind = "full" if full_lo <= j < full_hi else "masked" if lo <= j < hi else "skipped"
            computed += kind != "skipped"
            squares[kind] += f"M{x + j * CELL} {TOP + i * CELL}h{CELL - 1}v{CELL - 1}h{1 - CELL}z"
    parts = [f'<text x="{x}" y="{TOP - 30}" class="t">{title}</text>']
    parts += [f'<path d="{path}" fill="{COLOURS[kind]}"/>' for kind, path in squares.items()]
    dense = count * (count + 1) // 2
    share = f"{computed} of {dense} tiles ({computed / dense:.0%})"
    parts.append(f'<text x="{x}" y="{TOP - 12}">{share}</text>')
    return parts


def shares() -> list[dict[str, float]]:
    """For each mean and length: visible pairs, and tiles visited at each tile length, as shares of a causal row's."""
    lines = []
    for length in LENGTHS:
        for mean in MEANS:
            ids = segment_ids(Shape(ROWS, length, 1, 1, 64, mean, "float32"))
            line: dict[str, float] = {"length": length, "mean": mean}
            for tile in TILES:
                found = visited(ids, tile, tile)
                line |= {"exact": found["exact"], str(tile): found["share"]}
            lines.append(line)
    return lines


def main() -> None:
    """Write both files."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_json(RESULTS, {"rows": ROWS, "sigma": 1.2, "tiles": TILES, "shares": shares()})
    side = LENGTH // TILE * CELL
    width, height = LEFT * 2 + side * 2 + GAP, TOP + side + 64
    left = panel(LEFT, "Packed documents", None)
    right = panel(LEFT + side + GAP, f"The same with a window of {WINDOW}", WINDOW)
    legend = []
    for n, (kind, colour) in enumerate(COLOURS.items()):
        x = LEFT + n * 215
        legend.append(f'<rect x="{x}" y="{TOP + side + 18}" width="12" height="12" fill="{colour}"/>')
        legend.append(f'<text x="{x + 18}" y="{TOP + side + 28}">{WORDS[kind]}</text>')
    axis = f'<text x="{LEFT}" y="{TOP + side + 52}">rows: tiles of {TILE} queries, columns: of {TILE} keys; a row of {LENGTH} tokens, {len(DOCUMENTS)} documents</text>'
    described = f"Of a causal row's tiles only those inside documents are computed, and most of those need no mask; documents of {', '.join(map(str, DOCUMENTS))} tokens."
    text = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="t d">',
            f'<title id="t">Tiles of the score matrix that attention computes</title><desc id="d">{described}</desc>',
            "<style>text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *left,
            *right,
            *legend,
            axis,
            "</svg>\n",
        ]
    )
    with atomic_write(OUTPUT) as file:
        file.write(text.encode())


if __name__ == "__main__":
    main()
