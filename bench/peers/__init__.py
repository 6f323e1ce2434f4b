"""One small file a peer: how it serves a work, and how its client measures one round of it."""
