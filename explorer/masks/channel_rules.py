"""Which channels of a layer are removed at a channel ratio: two rules that are in use. Loads no torch.

`paper`: Fang et al., Diff-Pruning, NeurIPS 2023: each group of the GroupNorm loses as many channels, ranked inside it.
`torch-pruning`: Torch-Pruning since version 1.5: every group loses the same positions, ranked by their mean over
groups. With few channels per group that removes far more than the ratio: 0.3 leaves 13.95 M parameters of the CIFAR-10
DDPM, and not the paper's 19.85 M.
"""

import numpy as np

CHANNEL_RULES = ("paper", "torch-pruning")


def check_channel_ratio(ratio: float, rule: str) -> None:
    """Raise ValueError for an unknown rule and for a ratio outside [0, 1)."""
    if rule not in CHANNEL_RULES:
        raise ValueError(f"rule {rule!r} is unknown; choose one of {', '.join(CHANNEL_RULES)}")
    if not 0 <= ratio < 1:
        raise ValueError(f"the channel ratio must be at least 0 and below 1, got {ratio}")


def keep_mask(importance: np.ndarray, num_norm_groups: int, ratio: float, rule: str = "paper") -> np.ndarray:
    """Decide what stays of a layer's channels at a channel ratio: bool (size,), the least important ones removed."""
    removed = num_removed_per_group(len(importance), num_norm_groups, ratio, rule)
    return rank_in_group(importance, num_norm_groups, rule) >= removed


def rank_in_group(importance: np.ndarray, num_norm_groups: int, rule: str) -> np.ndarray:
    """Rank each channel inside its group of the norm, the least important first: int (size,)."""
    grouped = importance.reshape(num_norm_groups, -1)
    if rule == "torch-pruning":
        grouped = np.tile(grouped.mean(axis=0), (num_norm_groups, 1))
    return grouped.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").reshape(-1)


def num_removed_per_group(size: int, num_norm_groups: int, ratio: float, rule: str) -> int:
    """Count the channels that are removed from each group of the norm at a channel ratio. Raises ValueError as
    `check_channel_ratio` does."""
    check_channel_ratio(ratio, rule)
    each = size // num_norm_groups
    if rule == "paper":
        return min((size - int(size * (1 - ratio))) // num_norm_groups, each - 1)
    return min(each - int(each * (1 - ratio)), each - 1)
