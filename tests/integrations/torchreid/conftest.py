from tiny_models import folders, make

__all__ = ["folders", "make"]
