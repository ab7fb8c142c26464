"""Turns a StepPlan into arrays, runs the step and brings tokens back. Framework-neutral: over the contract only."""
