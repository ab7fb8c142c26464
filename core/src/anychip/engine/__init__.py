"""The loop that joins scheduler, KV cache and runner, and the two fronts to it: LLM (sync) and AsyncEngine."""
