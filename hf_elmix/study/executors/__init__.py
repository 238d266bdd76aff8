"""Where the work of a study is done: in this process, in workers, on a Ray cluster."""
