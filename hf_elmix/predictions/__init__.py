"""Predictions for each evaluation row: recording during training, files, cohorts of rows.

Names are imported on first use. Import the function `predict` from the module of the same name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
