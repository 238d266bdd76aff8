"""The mixed loss and those that the paper compares it with, as functions of (logits, labels) and as objects.

Shapes, in every function: ``logits`` (..., C) of any floating type, ``labels`` (...) of class ids in [0, C) or
``ignore_index``. Half-precision logits are reduced in float32, and the result is then float32. Units: cross entropy is
in nats, 0 or more; the expectation loss is a probability, in [0, 1].
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
