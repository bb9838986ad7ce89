"""What a way of drawing costs and what it loses, measured beside its rivals. Start at `evaluation`."""
