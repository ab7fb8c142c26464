"""Finding plugins, probing them, and choosing the device that `--device` means."""
