from tiny_models import make

__all__ = ["make"]
