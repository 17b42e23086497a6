"""Data sets, their order as a function of (seed, position), and whether their files are there."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.data import availability as availability
    from meanflow_core.data.availability import FEATURES_NEEDED as FEATURES_NEEDED
    from meanflow_core.data.availability import IMAGES as IMAGES
    from meanflow_core.data.availability import features_missing as features_missing
    from meanflow_core.data.availability import missing as missing
    from meanflow_core.data.availability import module_of as module_of
    from meanflow_core.data.availability import no_features as no_features
    from meanflow_core.data.availability import usual_metrics as usual_metrics
    from meanflow_core.data.base import DataError as DataError
    from meanflow_core.data.base import Dataset as Dataset
    from meanflow_core.data.base import checked_labels as checked_labels
    from meanflow_core.data.base import digest as digest
    from meanflow_core.data.base import part_of as part_of
    from meanflow_core.data.base import unit_images as unit_images
    from meanflow_core.data.build import build_dataset as build_dataset
    from meanflow_core.data.build import row_shape as row_shape
    from meanflow_core.data.files import write_aside as write_aside
    from meanflow_core.data.image_files import image_faults as image_faults
    from meanflow_core.data.image_files import image_notes as image_notes
    from meanflow_core.data.order import IndexStream as IndexStream
    from meanflow_core.data.own import as_dataset as as_dataset

__getattr__, __all__ = lazy_face(__name__, __file__)
