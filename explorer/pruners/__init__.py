"""The methods: each is `fn(model, prompts, config) -> Generator[Progress, None, Importance | Mask]`."""

from explorer.pruners.baselines import deepcache, random, uniform

PRUNERS = {"uniform": uniform, "random": random, "deepcache": deepcache}
