"""The platform `numba`: a worked example of a third-party plugin."""
