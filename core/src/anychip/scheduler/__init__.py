"""Who runs in the next step: budget, chunked prefill, preemption and policy."""
