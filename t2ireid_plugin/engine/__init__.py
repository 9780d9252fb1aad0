"""Training and testing on torchreid's engine."""
