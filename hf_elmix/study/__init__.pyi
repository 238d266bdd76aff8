from .grid import run_grid
from .select import Select
from .spec import Method, RunKey, RunRecord, Study, Task, TrainerInputs
from .store import Store

__all__ = ["Method", "RunKey", "RunRecord", "Select", "Store", "Study", "Task", "TrainerInputs", "run_grid"]
