"""What a way of generating costs and loses, measured beside its equal-compute baselines. Start at `evaluate`."""
