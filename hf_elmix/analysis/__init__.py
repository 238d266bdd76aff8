"""Analysis and report of a study, from its records. Nothing here imports PyTorch."""
