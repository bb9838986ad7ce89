"""The methods: each is `fn(model, prompts, config) -> Generator[Progress, None, Importance | Mask]`."""

from explorer.pruners.baselines import deepcache, random, similarity, uniform
from explorer.pruners.dipgo import dipgo
from explorer.pruners.search import genetic, search

PRUNERS = {
    "uniform": uniform,
    "random": random,
    "deepcache": deepcache,
    "similarity": similarity,
    "search": search,
    "genetic": genetic,
    "dipgo": dipgo,
}
