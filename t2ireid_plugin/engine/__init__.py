"""Training on images with texts, on torchreid's engine."""
