"""The mixed loss of cross entropy and expectation loss, as a drop-in for the Hugging Face Trainer.

    from hf_elmix import MixedLossTrainer  # instead of: from transformers import Trainer

Names are imported when they are first used, so that reading records and drawing figures needs no PyTorch.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
