"""The GLUE study of the mixed loss: its tasks and protocol, and the program ``glue-runs``."""
