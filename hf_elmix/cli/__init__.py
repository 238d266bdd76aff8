"""The program ``elmix`` (one file per command), and the commands that ``glue-runs`` shares with it."""
