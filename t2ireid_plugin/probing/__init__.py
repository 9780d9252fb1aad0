"""Linear probes: how much identity and clothing information the embeddings contain."""
