"""Data sets, their order as a function of (seed, position), and whether their files are there."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.data import availability as availability
    from meanflow_core.data.availability import DEFAULT_METRICS as DEFAULT_METRICS
    from meanflow_core.data.availability import IMAGES as IMAGES
    from meanflow_core.data.availability import missing as missing
    from meanflow_core.data.availability import no_features as no_features
    from meanflow_core.data.base import DataError as DataError
    from meanflow_core.data.base import Dataset as Dataset
    from meanflow_core.data.base import digest as digest
    from meanflow_core.data.base import unit_images as unit_images
    from meanflow_core.data.build import build_dataset as build_dataset
    from meanflow_core.data.build import row_shape as row_shape
    from meanflow_core.data.files import write_aside as write_aside
    from meanflow_core.data.order import IndexStream as IndexStream

__getattr__, __all__ = lazy_face(__name__, __file__)
