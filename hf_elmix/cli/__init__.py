"""The command ``elmix``, a file a command."""
