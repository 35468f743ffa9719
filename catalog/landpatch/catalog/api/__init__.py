"""STAC API over datasets where they lie: ``create_app`` gives the application (extra ``server``)."""

from landpatch.catalog.api.app import create_app
from landpatch.catalog.api.settings import Settings

__all__ = ["Settings", "create_app"]
