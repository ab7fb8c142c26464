"""What `anychip bench` measures: a model's speed, the engine's own work, and the start-up."""
