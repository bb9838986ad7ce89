"""What was learned against the strongest rivals alone, on more pictures than everybody could be drawn on.

The rivals are those of results that are there already: the strongest families at each ratio, made again from what their
rows say.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pandas as pd

from explorer.evidence.evaluation import Contender, Full
from explorer.evidence.report import MEASURE, named
from explorer.evidence.rivals import RIVALS, all_at
from explorer.evidence.suite import GRIDS, PICTURES, Suite, learned
from explorer.graph import Forecast
from explorer.masks import Importance
from explorer.prompts import chosen, cycled
from explorer.pruners import PRUNERS
from explorer.pruners.configs import CONFIGS
from explorer.work import Progress, finished

RATIOS = (0.5, 0.7, 0.8, 0.9)
MOST = 2  # families of rivals at each ratio


def everybody(model: Any, full: Full, rows: pd.DataFrame) -> Generator[Progress, None, list[Contender]]:
    """What comes with the project, and the strongest rivals of `rows`, at every ratio."""
    found = []
    for number, ratio in enumerate(RATIOS):
        yield Progress(number, len(RATIOS), f"rivals at {ratio:.0%}")
        found += learned(model, full, ratio)
        found += [made_again(model, full, row) for row in strongest(rows, ratio)]
    return found


def beside(model: Any, full: Full) -> Generator[Progress, None, list[Contender]]:
    """What comes with the project for a full run of which there are no other results, with two rivals tuned as well:
    whole calls, and the few-step sampler that is the strongest elsewhere."""
    suite = Suite(model, full, cycled(chosen(model, "search"), PICTURES))
    found = []
    for number, ratio in enumerate(RATIOS):
        yield Progress(number, len(RATIOS), f"rivals at {ratio:.0%}")
        found += learned(model, full, ratio) + suite.tuned("uniform", ratio, GRIDS["uniform"])
        found += all_at(model, full, 1 - ratio, suite.trials, ("unipc-steps",))
    return found


def strongest(rows: pd.DataFrame, ratio: float, most: int = MOST) -> list[Any]:
    """A row of each of the `most` families that come nearest to the full run at `ratio`; what learns is no rival."""
    there = named(rows)
    there = there[(there.ratio == ratio) & (there.method != "dipgo")]
    best = there.groupby("key")[MEASURE].mean().sort_values(ascending=False).index
    firsts = there.drop_duplicates("key").set_index("key", drop=False).loc[best]
    return list(firsts.drop_duplicates("method").head(most).itertuples(index=False))


def made_again(model: Any, full: Full, row: Any) -> Contender:
    """The contender of a row. Raises ValueError where what comes out is not the same."""
    settings = json.loads(row.settings)
    if row.method in RIVALS:
        found = Contender(row.method, row.sampler, int(row.steps), row.ratio, solver=settings)
    else:
        mask = _mask(model, row.method, settings, row.ratio, cycled(chosen(model, "search"), PICTURES))
        found = Contender(row.method, full.sampler, full.steps, row.ratio, settings, mask=mask)
    if found.key != row.key:
        raise ValueError(f"{row.method} at {row.ratio} is made otherwise today; draw the results anew")
    return found


def _mask(model: Any, method: str, settings: Mapping[str, Any], ratio: float, prompts: Sequence[str]) -> Any:
    """Tuned as the suite does: the schedule at order 0, the forecast afterwards."""
    fields = {name: value for name, value in settings.items() if name != "how"}
    forecast = Forecast(fields["order"], fields.get("reach"))
    config = CONFIGS[method](**fields | {"order": 0, "reach": None})
    result = finished(PRUNERS[method](model, prompts, config))
    mask = result.at(ratio) if isinstance(result, Importance) else result
    return mask.forecasting(forecast)
