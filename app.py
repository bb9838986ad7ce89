"""Builds the page and launches it; nothing else."""

from explorer.ui import launch

if __name__ == "__main__":
    launch()
