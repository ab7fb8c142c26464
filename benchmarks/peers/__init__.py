"""anychip beside the other engines that run language models on a CPU; `make bench-peers` runs it."""
