"""The kernels, one file for each family. They use what Triton 3.6 to 3.9 have in common, and no vendor's library."""
