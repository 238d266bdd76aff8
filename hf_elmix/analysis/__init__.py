"""Tables and figures from records alone: nothing here imports PyTorch."""
