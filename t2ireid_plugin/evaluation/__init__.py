"""From embeddings to R@k, mAP, mINP and pictures. Reads a model, never an engine."""
