"""The tests, in the order of the packages that they test."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
