"""The program ``elmix`` (one file per command), and the commands that other programs share with it."""
