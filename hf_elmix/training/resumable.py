"""What must hold before a Trainer continues from a checkpoint: it is as it was saved, by a run with the same settings.

The Trainer itself starts with a fresh optimizer if its file is missing, with untrained weights if their names do not
fit, and goes on with other weights or other arguments than those it began with, all without a word.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_elmix.disk import digest_of, read_regular, write_whole
from hf_elmix.errors import UsageError, in_one_line

__all__ = [
    "CheckedResume",
    "RunSettings",
    "changes",
    "check_checkpoint",
    "check_weights",
    "is_half_written",
    "settings_in",
]

STATE, CONFIG, DIGESTS = "trainer_state.json", "config.json", "digests.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"  # of PEFT, one in each folder
# The files with the state of training, and a key that each of them must have.
STATES = {"optimizer.pt": "param_groups", "scheduler.pt": "last_epoch"}
MADE_WITH = "it was made with"
LIKE_WEIGHTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")  # of an optimizer
UNFIT = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what is raised by a state of another kind

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class RunSettings(TrainerCallback, ExportableState):
    """Keeps settings of a run and digests of files in each checkpoint.

    The settings are plain JSON values in ``trainer_state.json``. The digests, in ``digests.json``, are written last.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = json.loads(json.dumps(settings, default=str))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as the Trainer asks for it."""
        return {"args": {"settings": self.settings}, "attributes": {}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Announce the settings: the Trainer expects a place for them in a state that was loaded from a checkpoint."""
        callbacks: Any = state.stateful_callbacks
        callbacks[type(self).__name__] = self.state()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Keep a digest of each file, once all processes have written theirs."""
        PartialState().wait_for_everyone()
        if args.should_save:
            folder = Path(args.output_dir or "", f"checkpoint-{state.global_step}")
            digests = {path.relative_to(folder).as_posix(): digest_of(path) for path in _files(folder)}
            write_whole(folder / DIGESTS, json.dumps(digests, indent=1).encode())


class CheckedResume(_Base):
    """Put before a Trainer, refuses a checkpoint with the state of another optimizer or scheduler than the Trainer's.

    PyTorch loads such a state without a word, and then fails, or trains on with fresh or misplaced moments.

    Attributes:
        trusts_checkpoints: Whether none is checked. A study verifies each file itself, and also goes on from weights
            that are not finite: each run that shares them has diverged.
    """

    trusts_checkpoints = False

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            if checkpoint is not None and not (sharded or self.trusts_checkpoints):
                _check_optimizer(self.optimizer)
                skips = self.accelerator.scaler is not None  # steps whose gradients overflow
                _check_scheduler(self.lr_scheduler, 1 if skips else _state_in(Path(checkpoint)).global_step)
        except torch.OutOfMemoryError:
            raise
        except UNFIT as error:
            raise UsageError(
                f"Cannot continue from {checkpoint!r}: its optimizer or scheduler is not that of this run "
                f"({in_one_line(error).rstrip('.')}). Continue from another checkpoint, or start again."
            ) from error


def _check_optimizer(optimizer: Any) -> None:
    """Raise a ValueError if an optimizer has a state that is not its own, or not finite."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # as accelerate wraps it
    wanted = {"exp_avg"} if isinstance(optimizer, torch.optim.Adam) else set()
    if wanted and not optimizer.state:
        raise ValueError("it has no moments")
    for group in optimizer.param_groups:
        if absent := optimizer.defaults.keys() - group.keys():
            raise ValueError(f"it has no {min(absent)}")
        for weight in group["params"]:
            state = optimizer.state.get(weight) or dict.fromkeys(wanted)  # none for a weight that had no gradient
            if absent := wanted - state.keys():
                raise ValueError(f"it has no {min(absent)}")
            for name, value in state.items():
                if name in LIKE_WEIGHTS and value is not None and value.shape != weight.shape:
                    raise ValueError(f"{name} of a weight {tuple(weight.shape)} is {tuple(value.shape)}")
                if isinstance(value, torch.Tensor) and not value.isfinite().all():
                    raise ValueError(f"{name} is not finite")


def _check_scheduler(scheduler: Any, steps: int) -> None:
    """Raise a ValueError if a schedule of learning rates, called once a step, has another step or other rates."""
    scheduler = getattr(scheduler, "scheduler", scheduler)
    if not isinstance(scheduler, LambdaLR):
        return
    if scheduler.last_epoch % steps:
        raise ValueError(f"the scheduler is at step {scheduler.last_epoch}, not {steps}")
    rates = [group.get("initial_lr") for group in scheduler.optimizer.param_groups]
    if scheduler.base_lrs != rates:
        raise ValueError(f"the scheduler has the rates {scheduler.base_lrs}, and the optimizer {rates}")


def settings_in(checkpoint: Path) -> dict[str, Any] | None:
    """The settings that `RunSettings` kept in a checkpoint; None if there are none."""
    callbacks: Any = _state_in(checkpoint).stateful_callbacks
    kept = callbacks.get(RunSettings.__name__)
    return kept["args"]["settings"] if isinstance(kept, dict) else None


def check_checkpoint(checkpoint: Path, settings: Mapping[str, Any], processes: int = 1) -> None:
    """Refuse a checkpoint that is damaged or was made with other settings.

    Args:
        checkpoint: Its folder.
        settings: Those of this run, with ``arguments`` by name; names that only one side has are not compared.
        processes: Number of processes that train, or 0 if their random numbers need not be those of before.

    Raises:
        UsageError: With the reason, and the nearest checkpoint beside it (or in it) from which training can continue.
    """
    wanted = RunSettings(settings).settings
    reason = _reason_against(checkpoint, wanted, processes)
    if reason is None:
        return
    advice = "Start again in another --output_dir"
    if reason.startswith(MADE_WITH):
        advice = "Type what it was made with, or start again in another --output_dir"
    others = [path for place in (checkpoint.parent, checkpoint) for path in place.glob("checkpoint-*")]
    others = [path for path in others if path.name != checkpoint.name and _step(path) is not None]
    near = sorted(others, key=lambda path: abs((_step(path) or 0) - (_step(checkpoint) or 2**62)))
    good = next((path for path in near if _reason_against(path, wanted, processes) is None), None)
    if good is not None:
        advice = f"The nearest from which you can: --resume_from_checkpoint {good}"
    raise UsageError(f"Cannot continue from {str(checkpoint)!r}: {reason}. {advice}.")


def is_half_written(checkpoint: Path) -> bool:
    """Whether saving a checkpoint was cut short: the state of the Trainer is written last."""
    try:
        return _state_in(checkpoint).global_step < 1
    except ValueError:
        return True


def check_weights(checkpoint: Path, model: nn.Module) -> None:
    """Refuse the weights of another model, which the Trainer would leave out.

    Raises:
        UsageError: If names or shapes differ from those of the model.
    """
    own = model.state_dict()
    held = {name: shape for path in _weight_files(checkpoint) for name, shape in _shapes_in(path).items()}
    loaded = {own[name].data_ptr() for name in held.keys() & own.keys()}  # tied weights are saved under one name
    wrong = [name for name, shape in held.items() if name not in own or tuple(own[name].shape) != shape]
    wrong += [name for name in own.keys() - held.keys() if own[name].data_ptr() not in loaded]
    if wrong:
        raise UsageError(
            f"Cannot continue from {str(checkpoint)!r}: its weights are those of another model ({sorted(wrong)[0]} "
            "does not fit). Give the --model_name_or_path that it was made with."
        )


def _reason_against(checkpoint: Path, settings: dict[str, Any], processes: int) -> str | None:
    """Why training cannot continue from a checkpoint, or None if it can."""
    try:
        state = _state_in(checkpoint)
        _check_files(checkpoint, processes)
    except ValueError as error:
        return str(error)
    if state.global_step < 1:
        return f"its {STATE} says that no step was done"
    if not isinstance(state.stateful_callbacks, dict) or "TrainerControl" not in state.stateful_callbacks:
        return f"its {STATE} has no TrainerControl"
    if _step(checkpoint) not in (None, state.global_step):
        return f"its {STATE} is that of step {state.global_step}"
    if file := _changed_file(checkpoint):
        return f"its {file} is not what was saved there"
    before = settings_in(checkpoint)
    changed = [] if before is None else list(changes(before, settings))
    return f"{MADE_WITH} {', '.join(changed)}" if changed else None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield each setting that both sides have with other values, and these values; ``arguments`` as flags."""
    for name in before.keys() & now.keys():
        if name == "arguments":
            yield from (f"--{change}" for change in changes(before[name], now[name]))
        elif isinstance(before[name], dict) and isinstance(now[name], dict):
            yield from (f"other {name} ({change})" for change in changes(before[name], now[name]))
        elif before[name] != now[name]:
            yield f"{name} {_shown(before[name])} (now {_shown(now[name])})"


def _shown(value: Any) -> str:
    return "unset" if value is None else value if isinstance(value, str) else json.dumps(value)


def _step(checkpoint: Path) -> int | None:
    _, prefix, number = checkpoint.name.rpartition("checkpoint-")
    return int(number) if prefix and number.isdecimal() and checkpoint.is_dir() else None


def _state_in(checkpoint: Path) -> TrainerState:
    """The state of the Trainer; a ValueError says what is wrong with its file."""
    try:
        state = TrainerState.load_from_json(str(checkpoint / STATE))
        if not (isinstance(state.global_step, int) and isinstance(state.log_history, list)):
            raise ValueError("a step is a number, and the history a list.")
        return state
    except FileNotFoundError:
        raise ValueError(f"it has no {STATE}, which is written last") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its {STATE} cannot be read ({in_one_line(error).rstrip('.')})") from error


def _check_files(checkpoint: Path, processes: int) -> None:
    """Raise a ValueError with the name of a file that is missing, cut short or empty."""
    for path in _weight_files(checkpoint):
        names = _shapes_in(path)
        with safe_open(path, "pt") as file:
            if any(not file.get_tensor(name).isfinite().all() for name in names):
                raise ValueError(f"its {path.name} has weights that are not finite")
    if (config := checkpoint / CONFIG).exists():  # not beside the weights of every model
        _json_in(config)
    random = [f"rng_state{'' if processes == 1 else f'_{rank}'}.pth" for rank in range(processes)]
    for name in (*STATES, *random):
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(f"it has no {name} (was it saved with --save_only_model, or by other processes?)")
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if name in STATES else None
        except Exception as error:  # of the archive, of PyTorch or of unpickling, which do not name the file
            raise ValueError(f"its {name} cannot be read ({in_one_line(error).rstrip('.')})") from error
        if damaged is not None:
            raise ValueError(f"its {name} is damaged")
        if name in STATES and not (isinstance(kept, dict) and STATES[name] in kept):
            raise ValueError(f"its {name} is empty")


def _files(folder: Path) -> list[Path]:
    """All files of a checkpoint but that of their digests."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / DIGESTS)


def _changed_file(checkpoint: Path) -> str | None:
    """A file that was saved with a digest and now has another one, or is missing; None also without digests."""
    if not (checkpoint / DIGESTS).exists():  # the stock Trainer keeps none
        return None
    try:
        kept = _json_in(checkpoint / DIGESTS)
    except ValueError:
        return DIGESTS
    if not isinstance(kept, dict):
        return DIGESTS
    now = {path.relative_to(checkpoint).as_posix(): path for path in _files(checkpoint)}
    return next((name for name in kept if name not in now or digest_of(now[name]) != kept[name]), None)


def _json_in(path: Path) -> Any:
    """What a JSON file holds; a ValueError says that it cannot be read."""
    try:
        return json.loads(read_regular(path.resolve()))  # files of a cache are links
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"its {path.name} cannot be read ({in_one_line(error).rstrip('.')})") from error


def _weight_files(checkpoint: Path) -> list[Path]:
    """The files with the weights of a checkpoint; a ValueError says that they are missing."""
    names = [WEIGHTS]
    if not (checkpoint / WEIGHTS).exists():
        names = [str(path.relative_to(checkpoint)) for path in checkpoint.rglob(ADAPTER)] or names
    if not (checkpoint / WEIGHTS).exists() and (checkpoint / INDEX).exists():
        with suppress(ValueError, KeyError, AttributeError, TypeError):
            names = sorted(set(_json_in(checkpoint / INDEX)["weight_map"].values()))
    for name in names:
        if not (checkpoint / name).is_file():
            raise ValueError(f"it has no {name}")
    return [checkpoint / name for name in names]


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a file of weights; a ValueError says that it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"its {path.name} is damaged ({in_one_line(error).rstrip('.')})") from error
