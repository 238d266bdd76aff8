from __future__ import annotations

import json

from glue_runs.tasks import GLUE_TASKS
from hf_elmix.text.tasks import TextTask


def test_settings_of_a_task_are_plain_json_and_read_back():
    for task in GLUE_TASKS.values():
        assert TextTask.from_settings(json.loads(json.dumps(task.to_settings()))) == task
