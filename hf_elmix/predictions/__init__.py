"""What a model said of each evaluation row: recording it while a model trains, files of it, and cohorts of rows.

Names are imported when they are first used. `predict`, which is named as its module is, is imported from there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
