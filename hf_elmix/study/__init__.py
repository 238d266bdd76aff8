"""The engine of a study: tasks x methods x seeds, one record for each run."""
