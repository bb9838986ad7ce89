"""How much a plan of its own would bring each prompt, compared with the common one: the predicted error's logarithm.

No pruned run is made. Run by hand: python tests/bench/head_room.py [model] [sampler] [steps] [prompts]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from explorer import experiment
from explorer.models.prompts import repeat_to, split_names
from explorer.pruners.call_planning import CallPlanner
from explorer.pruners.full_run import measure_batch
from explorer.pruners.schedule_configs import PlannedConfig
from explorer.studies.result_files import reference_run

RATIOS = (0.5, 0.7, 0.8, 0.9)


def main(model_id: str = "emoji-flux", sampler: str = "euler", steps: str = "20", prompts: str = "16") -> None:
    model = experiment.load_cached(model_id)
    config = PlannedConfig(**vars(reference_run(model_id, sampler, int(steps))))
    names = repeat_to(split_names(model, "search"), int(prompts))
    measured = [measure_batch(model, [name], seed, config) for seed, name in enumerate(names)]
    how = (config.order, config.max_extrapolation, config.error == "landing")
    own = [CallPlanner(*one, *how) for one in measured]
    gram = np.mean([gram for gram, _ in measured], axis=0)
    weights = np.sqrt(np.mean([weights**2 for _, weights in measured], axis=0))
    common = CallPlanner(gram, weights, *how)
    for ratio in RATIOS:
        count = max(1, round(common.calls * (1 - ratio)))
        plan = common.plans(count)[-1]
        gains = [10 * np.log10(planner.total(plan) / planner.total(planner.plans(count)[-1])) for planner in own]
        print(f"{ratio:.0%}: {np.mean(gains):.2f} dB in the mean, {np.median(gains):.2f} median, {max(gains):.2f} most")


if __name__ == "__main__":
    main(*sys.argv[1:])
