"""The Pallas kernels. Each compiles for TPU, and runs on the processor in Pallas's interpreters."""
