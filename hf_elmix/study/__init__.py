"""The engine of a study: problems x methods x seeds, one record for each run."""
