"""Our image models in timm's registry, under the names of `registration.MODELS`."""
