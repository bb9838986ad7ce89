"""The methods: each is `fn(model, prompts, config) -> Generator[Progress, None, Importance | Mask]`."""

from explorer.pruners.baselines import deepcache, random, similarity, uniform
from explorer.pruners.dipgo import dipgo
from explorer.pruners.ecodiff import ecodiff
from explorer.pruners.released import released
from explorer.pruners.search import genetic, search
from explorer.pruners.taylor import taylor
from explorer.pruners.widths import magnitude, random_widths

PRUNERS = {
    "uniform": uniform,
    "random": random,
    "deepcache": deepcache,
    "similarity": similarity,
    "search": search,
    "genetic": genetic,
    "dipgo": dipgo,
    "magnitude": magnitude,
    "random-widths": random_widths,
    "taylor": taylor,
    "ecodiff": ecodiff,
    "ecodiff-released": released,
}
