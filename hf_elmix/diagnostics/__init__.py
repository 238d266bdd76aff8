"""Diagnostics of training: gradients of losses, escaping efficiency, sharpness, calibration, plots of cohorts.

Names are imported on first use, as some need PyTorch and others the extra ``report``. Import the function `escape`
from the module of the same name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
