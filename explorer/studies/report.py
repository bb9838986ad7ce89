"""What published results say: the ranking of candidates at a ratio, how far each is behind the best, and figures."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from explorer import figures
from explorer.evaluation.results import SAMPLE, read_results
from explorer.evaluation.statistics import interval

MEASURE = "psnr_box"  # dB to the full run, inside the foreground box of its picture
MAX_PSNR = 65.0  # dB, where figures end: rounding to 8 bits alone comes to 59
AXES = {"kept": "share of the full run's MACs", "loop_seconds": "seconds per picture (denoising loop)"}


def with_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of candidates without an error, with a `name` that the seeds of one method share: the method, and
    how it was made where that was done in several ways."""
    sound = rows[rows.error.isna() & rows.ratio.notna()].copy()
    sound["ratio"] = sound.ratio.astype(float).round(6)
    how = sound.settings.map(lambda text: json.loads(text).get("how", ""))
    has_several = how.groupby(sound.method).transform("nunique") > 1
    sound["name"] = np.where(has_several, sound.method + ", " + how, sound.method)
    return sound


def ratios_with_several(rows: pd.DataFrame) -> list[float]:
    """List the ratios at which there is more than one candidate."""
    names = with_names(rows).groupby("ratio").name.nunique()
    return sorted(names.index[names > 1])


def ranking(rows: pd.DataFrame, ratio: float, measure: str = MEASURE) -> pd.DataFrame:
    """Rank all candidates at `ratio`, the best first.

    Columns: `mean` of the measure with its 95 % interval (`low`, `high`), and the paired lead of the best over each
    (`behind`, with interval, and in how many of `n` pictures it wins). Seeds of one method count as their mean.
    Raises ValueError where there is no candidate at that ratio.
    """
    named = with_names(rows)
    at_ratio = named[named.ratio == round(ratio, 6)]
    if at_ratio.empty:
        raise ValueError(f"these results have no candidate at the ratio {ratio}")
    pictures = at_ratio.pivot_table(measure, [*SAMPLE], "name", aggfunc="mean").dropna()
    prompts = pictures.index.get_level_values("prompt").to_numpy()
    costs = at_ratio.groupby("name")[[*AXES]].median()
    best = pictures.mean().idxmax()
    table = []
    for name, values in pictures.items():
        lead = (pictures[best] - values).to_numpy()
        mean, low, high = interval(values.to_numpy(), prompts)
        behind, behind_low, behind_high = interval(lead, prompts)
        table.append(
            {"name": name, **costs.loc[name], "mean": mean, "low": low, "high": high}
            | {"behind": behind, "behind_low": behind_low, "behind_high": behind_high}
            | {"wins_of_best": int((lead > 0).sum()), "n": len(lead)}
        )
    return pd.DataFrame(table).sort_values("mean", ascending=False, ignore_index=True)


def draw_figures(
    file: Path, measure: str = MEASURE, label: str = "PSNR to the full run, inside the drawing's box, dB"
) -> list[Path]:
    """Draw the results `file` against MACs and against seconds, as .svg next to it. Returns the files.

    `label` names the measure on its axis. Needs kaleido and a browser.
    """
    _, rows = read_results(file)
    tables = [ranking(rows, ratio, measure) for ratio in sorted(with_names(rows).ratio.unique())]
    files = []
    for axis, axis_label in AXES.items():
        figure = figures.trade_off(_points(pd.concat(tables), axis), axis_label, label)
        figure.update_layout(paper_bgcolor="white", margin=dict(l=60, r=16, t=90, b=50))
        if measure == MEASURE:
            lowest = min(float(table.low.min()) for table in tables)
            figure.update_yaxes(range=[lowest - 1, MAX_PSNR])
        files.append(file.with_name(f"{file.stem}-{axis.replace('_', '-')}.svg"))
        figure.write_image(files[-1], width=960, height=560)
    return files


def _points(table: pd.DataFrame, axis: str) -> Sequence[figures.Point]:
    columns = table[["name", axis, "mean", "low", "high"]].sort_values("name", key=lambda names: names.map(_sort_key))
    return [figures.Point(*row) for row in columns.itertuples(index=False, name=None)]


def _sort_key(name: str) -> tuple[bool, tuple[str | int, ...]]:
    """Sort schedules before few-step samplers, and branch 2 before branch 10."""
    parts = re.split(r"(\d+)", name)
    return name.endswith("-steps"), tuple(int(part) if part.isdigit() else part for part in parts)


def describe_ranking(rows: pd.DataFrame, ratio: float, count: int = 3) -> str:
    """Describe in one line which candidate leads at `ratio`, and by how much over the next `count`."""
    table = ranking(rows, ratio)
    best = table.iloc[0]
    others = "; ".join(
        f"{row['name']} {row['mean']:.1f}, behind by {row.behind:.1f} [{row.behind_low:.1f}, {row.behind_high:.1f}], "
        f"in {row.wins_of_best} of {row.n}"
        for _, row in table.iloc[1 : 1 + count].iterrows()
    )
    return f"{ratio:.0%}: {best['name']} {best['mean']:.1f} dB [{best.low:.1f}, {best.high:.1f}]; {others}"
