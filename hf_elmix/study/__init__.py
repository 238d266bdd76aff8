"""Studies: tasks × methods × seeds, one record for each run.

Names are imported when they are first used, so that reading records needs no PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
