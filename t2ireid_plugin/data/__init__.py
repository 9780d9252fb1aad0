"""Images with captions as torchreid datasets, and drawn pedestrians in their format."""
