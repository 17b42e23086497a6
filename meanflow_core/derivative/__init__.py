"""The network's prediction and its total derivative du/dt, by methods that agree."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.derivative.methods import predict as predict
    from meanflow_core.derivative.methods import record as record
    from meanflow_core.derivative.methods import rows_stand_alone as rows_stand_alone
    from meanflow_core.derivative.on_trial import DerivativeError as DerivativeError
    from meanflow_core.derivative.sharded import carry_through_hooks as carry_through_hooks

__getattr__, __all__ = lazy_face(__name__, __file__)
