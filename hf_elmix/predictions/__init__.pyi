from .callback import CohortCallback
from .cohorts import share_table, transition_table
from .records import Predictions, read_predictions, write_predictions

__all__ = [
    "CohortCallback",
    "Predictions",
    "read_predictions",
    "share_table",
    "transition_table",
    "write_predictions",
]
