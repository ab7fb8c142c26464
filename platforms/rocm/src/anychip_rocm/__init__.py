"""The rocm platform of anychip."""
