"""Pretrained image and text encoders: loading, tokenizing, preprocessing and running them."""
