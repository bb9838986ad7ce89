"""What published results say: who stands where at a ratio, how far behind the best, and the figures of it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from explorer import figures
from explorer.evidence.results import PICTURE, read
from explorer.evidence.summary import interval

MEASURE = "psnr_box"  # dB to the full run, inside the box of what it draws
ENOUGH = 65.0  # dB, where figures end: rounding to 8 bits alone comes to 59
AXES = {"kept": "share of the full run's MACs", "loop_seconds": "seconds a picture (denoising loop)"}


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """The sound rows of schedules and rivals, with a `name` that seeds of one method share: the method, and how it was
    made where that was done in several ways."""
    sound = rows[rows.error.isna() & rows.ratio.notna()].copy()
    sound["ratio"] = sound.ratio.astype(float).round(6)
    how = sound.settings.map(lambda text: json.loads(text).get("how", ""))
    several = how.groupby(sound.method).transform("nunique") > 1
    sound["name"] = np.where(several, sound.method + ", " + how, sound.method)
    return sound


def contested(rows: pd.DataFrame) -> list[float]:
    """The ratios at which more than one stands."""
    names = named(rows).groupby("ratio").name.nunique()
    return sorted(names.index[names > 1])


def standing(rows: pd.DataFrame, ratio: float, measure: str = MEASURE) -> pd.DataFrame:
    """Everybody at `ratio`, the best first: mean of `measure` with its 95 % interval, and the paired lead of the best
    over each (`behind`, with interval, and how many of `n` pictures it wins). Seeds of one method count as their mean.

    Raises ValueError where nobody stands at that ratio.
    """
    everybody = named(rows)
    at_ratio = everybody[everybody.ratio == round(ratio, 6)]
    if at_ratio.empty:
        raise ValueError(f"nobody stands at the ratio {ratio} in these results")
    pictures = at_ratio.pivot_table(measure, [*PICTURE], "name", aggfunc="mean").dropna()
    prompts = pictures.index.get_level_values("prompt").to_numpy()
    costs = at_ratio.groupby("name")[[*AXES]].median()
    best = pictures.mean().idxmax()
    found = []
    for name, values in pictures.items():
        lead = (pictures[best] - values).to_numpy()
        mean, low, high = interval(values.to_numpy(), prompts)
        behind, behind_low, behind_high = interval(lead, prompts)
        found.append(
            {"name": name, **costs.loc[name], "mean": mean, "low": low, "high": high}
            | {"behind": behind, "behind_low": behind_low, "behind_high": behind_high}
            | {"wins_of_best": int((lead > 0).sum()), "n": len(lead)}
        )
    return pd.DataFrame(found).sort_values("mean", ascending=False, ignore_index=True)


def draw(
    file: Path, measure: str = MEASURE, reached: str = "PSNR to the full run, inside the drawing's box, dB"
) -> list[Path]:
    """Draw the results `file` against MACs and against seconds, as .svg beside it. Returns the files."""
    _, rows = read(file)
    tables = [standing(rows, ratio, measure) for ratio in sorted(named(rows).ratio.unique())]
    drawn = []
    for axis, words in AXES.items():
        figure = figures.trade_off(_points(pd.concat(tables), axis), words, reached)
        figure.update_layout(paper_bgcolor="white", margin=dict(l=60, r=16, t=90, b=50))
        if measure == MEASURE:
            least = min(float(table.low.min()) for table in tables)
            figure.update_yaxes(range=[least - 1, ENOUGH])
        drawn.append(file.with_name(f"{file.stem}-{axis.replace('_', '-')}.svg"))
        figure.write_image(drawn[-1], width=960, height=560)
    return drawn


def _points(table: pd.DataFrame, axis: str) -> Sequence[figures.Point]:
    columns = table[["name", axis, "mean", "low", "high"]].sort_values("name", key=lambda names: names.map(_place))
    return [figures.Point(*row) for row in columns.itertuples(index=False, name=None)]


def _place(name: str) -> tuple[bool, tuple[str | int, ...]]:
    """Schedules before few-step samplers, branch 2 before branch 10."""
    parts = re.split(r"(\d+)", name)
    return name.endswith("-steps"), tuple(int(part) if part.isdigit() else part for part in parts)


def in_words(rows: pd.DataFrame, ratio: float, most: int = 3) -> str:
    """Who leads at `ratio`, and by how much over the next `most`, in one line."""
    table = standing(rows, ratio)
    best = table.iloc[0]
    others = "; ".join(
        f"{row['name']} {row['mean']:.1f}, behind by {row.behind:.1f} [{row.behind_low:.1f}, {row.behind_high:.1f}], "
        f"in {row.wins_of_best} of {row.n}"
        for _, row in table.iloc[1 : 1 + most].iterrows()
    )
    return f"{ratio:.0%}: {best['name']} {best['mean']:.1f} dB [{best.low:.1f}, {best.high:.1f}]; {others}"
