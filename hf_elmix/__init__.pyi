from .comparison.trainers import compare
from .errors import UsageError
from .losses.mixed import cross_entropy, expectation_loss, mixed_loss
from .losses.registry import parse_loss, register_loss
from .losses.schedules import MixingSchedule
from .losses.weights import focus_to_weights
from .predictions.callback import CohortCallback
from .training.arguments import MixedLossArguments
from .training.callback import MixingCallback
from .training.complement import ComplementTrainer
from .training.loss_function import mixed_loss_func
from .training.trainer import MixedLossMixin, MixedLossTrainer

__all__ = [
    "CohortCallback",
    "ComplementTrainer",
    "MixedLossArguments",
    "MixedLossMixin",
    "MixedLossTrainer",
    "MixingCallback",
    "MixingSchedule",
    "UsageError",
    "compare",
    "cross_entropy",
    "expectation_loss",
    "focus_to_weights",
    "mixed_loss",
    "mixed_loss_func",
    "parse_loss",
    "register_loss",
]
__version__: str
