"""torchreid: registration, the image-only model, and training on images alone."""
