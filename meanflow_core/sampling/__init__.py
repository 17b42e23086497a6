"""Samples from noise, in one step or several, and pictures of them."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.sampling.asking import asked_for as asked_for
    from meanflow_core.sampling.asking import asked_of_weights as asked_of_weights
    from meanflow_core.sampling.asking import conditions_of as conditions_of
    from meanflow_core.sampling.evaluation_samples import Sampling as Sampling
    from meanflow_core.sampling.evaluation_samples import fixed_noise as fixed_noise
    from meanflow_core.sampling.evaluation_samples import image_grid as image_grid
    from meanflow_core.sampling.pictures import save_picture as save_picture
    from meanflow_core.sampling.sampler import guidance_scale as guidance_scale
    from meanflow_core.sampling.sampler import sample as sample

__getattr__, __all__ = lazy_face(__name__, __file__)
