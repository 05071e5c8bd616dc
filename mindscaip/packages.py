"""Versions of installed packages, looked up without importing them."""

from __future__ import annotations

from importlib import metadata


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution (the name that pip knows), or None; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
