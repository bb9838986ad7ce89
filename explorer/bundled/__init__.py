"""What ships in assets/: importances of schedules and widths, feature similarities, and the gallery. Loads no torch."""
