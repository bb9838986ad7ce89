"""What pruning costs and loses, compared with equal-compute baselines. Start at `evaluate`."""
