"""The network: encoders, disentangling, embedding heads, fusion. Knows nothing of data, configs or torchreid."""
