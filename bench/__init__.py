"""The benchmark: ours and its peers in one interleaved run; only ratios travel between machines."""
