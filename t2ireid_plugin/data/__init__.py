"""Training data: images with captions as torchreid datasets, their transforms, samplers and loaders."""
