"""Application performance monitoring as a Jupyter workspace."""

__version__ = "0.1.0"
