"""Instruments that show what training does: the gradient of a loss, escaping efficiency, sharpness, calibration.

Names are imported when they are first used: some need PyTorch, some what the extra ``report`` brings. `escape`, which
is named as its module is, is imported from there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
