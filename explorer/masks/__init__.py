"""Decides what to keep, on names and tables alone, and holds it in files: schedules, widths and their importances.

Nothing in this folder loads torch.
"""

from explorer.masks import schedule, width  # noqa: F401 (each adds its reader to `result.READERS`)
